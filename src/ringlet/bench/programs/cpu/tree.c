/* A treap under random insertions and deletions: each node is allocated and freed. */
#include "section.h"

enum { KEYS = 1 << 15, OPERATIONS = 600000 };

struct node {
    struct node *left, *right;
    uint64_t key, priority;
    char *label;
};

static struct node *root;

static void prepare(void)
{
    heap_reset();
    root = NULL;
}

static struct node *new_node(uint64_t key, uint64_t priority)
{
    struct node *node = heap_alloc(sizeof *node);
    size_t length = 8 + priority % 57;
    char *label = heap_alloc(length);
    if (!node || !label)
        rt_exit(3);
    *node = (struct node){NULL, NULL, key, priority, label};
    memset(label, (int)(key & 63) + 32, length - 1);
    label[length - 1] = 0;
    return node;
}

static void split(struct node *tree, uint64_t key, struct node **less, struct node **rest)
{
    while (tree) {
        if (tree->key < key) {
            *less = tree;
            less = &tree->right;
            tree = tree->right;
        } else {
            *rest = tree;
            rest = &tree->left;
            tree = tree->left;
        }
    }
    *less = *rest = NULL;
}

static struct node *merge(struct node *less, struct node *rest)
{
    if (!less)
        return rest;
    if (!rest)
        return less;
    if (less->priority > rest->priority) {
        less->right = merge(less->right, rest);
        return less;
    }
    rest->left = merge(less, rest->left);
    return rest;
}

/* Inserts the key, or removes it if it was there. */
static uint64_t toggle(uint64_t key, uint64_t priority)
{
    struct node **link = &root;
    while (*link && (*link)->key != key && (*link)->priority >= priority)
        link = (*link)->key < key ? &(*link)->right : &(*link)->left;
    struct node **found = link;
    while (*found && (*found)->key != key)
        found = (*found)->key < key ? &(*found)->right : &(*found)->left;
    if (*found) {
        struct node *node = *found;
        *found = merge(node->left, node->right);
        uint64_t sum = strlen(node->label);
        heap_free(node->label);
        heap_free(node);
        return sum;
    }
    struct node *node = new_node(key, priority);
    split(*link, key, &node->left, &node->right);
    *link = node;
    return 1;
}

static uint64_t walk(const struct node *tree, uint64_t sum)
{
    for (; tree; tree = tree->right)
        sum = mix(walk(tree->left, sum), tree->key);
    return sum;
}

static uint64_t run(void)
{
    uint64_t random = 8, sum = 0;
    for (int i = 0; i < OPERATIONS; i++) {
        uint64_t r = rt_random(&random);
        sum += toggle(r % KEYS, r >> 16);
    }
    return walk(root, sum);
}

const struct section section_tree = {"tree", prepare, run};
