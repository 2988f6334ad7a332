# A program in node that computes: calls, numbers, strings, a sort, with N rounds.
prepare() { :; }

run() { node --max-old-space-size=512 /bench/files/compute.js "$N"; }
