# Words, hashes, sorting and regular expressions; the argument is the number of rounds.
use strict;
use warnings;

my ($rounds) = @ARGV;
my $state = 12345;

sub random {
    $state = ($state * 1103515245 + 12345) % 2147483648;
    return $state >> 8;
}

my $text = '';
for (1 .. 40000) {
    my $word = join '', map { chr(97 + random() % 12) } 1 .. 2 + random() % 5;
    $text .= $word . (random() % 9 ? ' ' : ".\n");
}
for my $round (1 .. $rounds) {
    my (%count, %follows);
    my $last = '';
    while ($text =~ /\b([a-z]+)\b/g) {
        $count{$1}++;
        $follows{$last}{$1}++ if $last;
        $last = $1;
    }
    my @common = sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count;
    my $pairs = 0;
    $pairs += keys %$_ for values %follows;
    (my $changed = $text) =~ s/([aeiou])([^aeiou\s.])/$2$1/g;
    my $doubled = () = $changed =~ /(.)\1/g;
    my @lines = map { join ' ', reverse split / / } split /\n/, $changed;
    printf "%d %s %d %d %d %s\n", $round, $common[$round], $count{ $common[$round] }, $pairs,
        $doubled, unpack('%32C*', join "\n", sort @lines);
}
