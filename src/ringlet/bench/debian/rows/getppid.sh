# N null system calls of one process.
prepare() { :; }

run() { /bench/driver getppid "$N" >rate; }
