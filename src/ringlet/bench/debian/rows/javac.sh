# javac compiles a small file, N times.
prepare() { cp /bench/files/Work.java .; }

run() {
    i=0
    while [ "$i" -lt "$N" ]; do
        /usr/lib/jvm/java-17-openjdk-amd64/bin/javac -J-Xmx512m -J-XX:+UseSerialGC -d out Work.java
        i=$((i + 1))
    done
    ls out
}
