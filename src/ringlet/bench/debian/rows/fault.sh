# N page faults on new anonymous memory of one process.
prepare() { :; }

run() { /bench/driver fault "$N" >rate; }
