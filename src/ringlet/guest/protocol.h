/* The numbers of the protocol.  ringlet/guest/protocol.py has the same, and says what they mean. */
#ifndef RINGLET_GUEST_PROTOCOL_H
#define RINGLET_GUEST_PROTOCOL_H

#include <stdint.h>

enum {
    VERSION = 1,
    HEADER_SIZE = 8,
    MAX_PAYLOAD = 262144,
    MAX_CHANNELS = 256,
    INPUT_WINDOW = 262144,
    ENTRY_SIZE = 64,
    MAX_TEXT = 512,
};

enum kind {
    HELLO = 1,
    OPEN = 2,
    DATA_IN = 16, DATA_OUT = 17, DATA_ERR = 18,
    END_IN = 24, END_OUT = 25, END_ERR = 26,
    CREDIT_IN = 32, CREDIT_OUT = 33, CREDIT_ERR = 34,
    SIGNAL = 48, RESIZE = 49,
    STARTED = 64, EXIT = 65, ERROR = 66, RESULT = 67, CLOSED = 68,
};

enum operation {
    OP_EXEC = 1, OP_READ = 2, OP_WRITE = 3, OP_STAT = 4, OP_LIST = 5, OP_MKDIR = 6, OP_REMOVE = 7,
    OP_RENAME = 8, OP_SYMLINK = 9, OP_COPY_IN = 10, OP_COPY_OUT = 11, OP_SYNC = 12,
    OP_INFO = 13, OP_TIME = 14, OP_POWER = 15,
};

enum flag {
    F_TERMINAL = 1, F_NO_INPUT = 2, F_MERGE = 4, F_ONLY_GIVEN = 8,
    F_RECURSIVE = 16, F_FOLLOW = 32, F_MODE = 64, F_OWNER = 128,
};

enum tag { T_ARGUMENT = 1, T_VARIABLE = 2, T_DIRECTORY = 3, T_USER = 4, T_PATH = 5, T_TARGET = 6 };

enum stage { S_OPERATION = 0, S_START = 1, S_TERMINAL = 2, S_USER = 3, S_DIRECTORY = 4,
             S_PROGRAM = 5, S_INTERPRETER = 6 };

enum power { P_OFF = 0, P_REBOOT = 1, P_HALT = 2 };

struct hello { uint8_t magic[8], nonce[8]; uint16_t lowest, highest; } __attribute__((packed));

/* What OPEN begins with; fields follow, each a word (tag << 24 | length) and its bytes. */
struct request {
    uint8_t operation, flags;
    uint16_t rows, columns, zero;
    uint32_t window, mode, uid, gid;
    uint64_t size;
} __attribute__((packed));

/* A file, in results of OP_STAT and OP_LIST and in trees; its name and a link's target follow. */
struct entry {
    uint32_t mode, uid, gid, links;
    uint64_t size;
    int64_t seconds;
    uint32_t nanoseconds;
    uint16_t name_length, target_length;
    uint64_t inode, device, special;
} __attribute__((packed));

_Static_assert(sizeof(struct hello) == 20, "hello");
_Static_assert(sizeof(struct request) == 32, "request");
_Static_assert(sizeof(struct entry) == ENTRY_SIZE, "entry");

#endif
