# Write a C file with $1 functions that differ in their constants.
cat <<'HEAD'
struct node { struct node *next; unsigned long key; char name[24]; };
extern int compare(const char *, const char *);
HEAD
i=0
while [ "$i" -lt "$1" ]; do
    cat <<BODY
unsigned long walk_$i(struct node *list, unsigned long seed, const char *wanted)
{
    unsigned long sum = seed * $((i * 2 + 1));
    for (struct node *node = list; node; node = node->next) {
        unsigned long key = node->key ^ (sum >> $((i % 13 + 1)));
        switch (key % $((i % 5 + 3))) {
        case 0: sum += key * $((i + 3)); break;
        case 1: sum ^= key << $((i % 11 + 1)); break;
        default: if (compare(node->name, wanted) < $((i % 3 - 1))) return sum - $i;
        }
    }
    return sum % $((i + 17));
}
BODY
    i=$((i + 1))
done
