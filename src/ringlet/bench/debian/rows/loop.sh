# A loop in Python with N million turns.
prepare() { :; }

run() { python3 -c "print(sum(i*i%7 for i in range($N * 1000000)))"; }
