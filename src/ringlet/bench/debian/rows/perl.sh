# A program in Perl: words, hashes, sorting, regular expressions, with N rounds.
prepare() { :; }

run() { perl /bench/files/words.pl "$N"; }
