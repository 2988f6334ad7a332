# A program in Java: maps, strings, sorting, big integers, small objects, with N rounds.
prepare() { /usr/lib/jvm/java-17-openjdk-amd64/bin/javac -d . /bench/files/Work.java; }

run() { /usr/lib/jvm/java-17-openjdk-amd64/bin/java -Xmx512m -XX:+UseSerialGC -cp . Work "$N"; }
