# node makes N million small objects, most of which live on.
prepare() { :; }

run() { node --max-old-space-size=1024 /bench/files/objects.js "$N"; }
