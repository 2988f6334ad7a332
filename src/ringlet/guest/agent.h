/* The parts of the agent, and what they ask of each other. */
#ifndef RINGLET_GUEST_AGENT_H
#define RINGLET_GUEST_AGENT_H

#include "protocol.h"
#include "system.h"

/* What is wanted: checked fields of OPEN.  The strings are in the session's buffer. */
struct wanted {
    struct request request;
    const char *fields; /* strings with a terminating zero; see request.c */
    size_t size;
};

/* request.c */
int parse_request(const uint8_t *payload, size_t size, struct wanted *wanted);
const char *field(const struct wanted *wanted, enum tag tag); /* the first; NULL: none */
const char *next_field(const struct wanted *wanted, enum tag tag, const char *after);
size_t count_fields(const struct wanted *wanted, enum tag tag);

/* One operation: a child process with up to three streams. */
struct stream {
    int fd;          /* -1: closed */
    uint64_t credit; /* bytes that the host takes */
    int64_t left;    /* after the process has ended: bytes that are still sent; -1 before */
};
struct channel {
    uint32_t id; /* 0: free */
    int pid, status, input, report, terminal;
    uint8_t operation, exited, started, told;
    struct stream output[2];
    uint8_t *waiting; /* input that the process has not read: INPUT_WINDOW bytes */
    size_t waiting_at, waiting_end, consumed;
    uint8_t input_ends;
};

/* output.c: the stream to the host. */
enum { ROOM_FOR_REPLIES = 8192, LARGEST_READ = 65536 };
void output_reset(int fd);
size_t output_room(void);
int output_waits(void);
int output_flush(void); /* 0, or a negative error: the connection is lost */
void send_frame(uint32_t channel, enum kind kind, const void *payload, size_t size);
uint8_t *frame_begin(void);
void frame_end(uint32_t channel, enum kind kind, size_t size);

/* channels.c */
extern struct channel channels[MAX_CHANNELS];
struct channel *find_channel(uint32_t id);
void open_channel(uint32_t id, const uint8_t *payload, size_t size);
int take_input(struct channel *channel, const uint8_t *data, size_t size);
void end_input(struct channel *channel);
void close_output(struct channel *channel, int which);
void signal_channel(const struct channel *channel, int number);
void feed_input(struct channel *channel);
void read_output(struct channel *channel, int which);
void advance(struct channel *channel);
void reap(void);
void drop_channels(void);

/* spawn.c: returns 0 or a negative error; then `stage` says in what. */
int spawn(struct channel *channel, const struct wanted *wanted, enum stage *stage);

/* shelter.c: the agent asks for it before each child, which leaves it: /proc may come late. */
extern int wants_shelter; /* an agent that outlives its connections */
void take_shelter(void);
void leave_shelter(void);

/* program.c: becomes the program, in the child. */
struct failure { int32_t error, stage; char text[MAX_TEXT]; };
void fail(int report, int error, enum stage stage, const char *text) __attribute__((noreturn));
void become_program(const struct wanted *wanted, int report) __attribute__((noreturn));

/* users.c */
struct user { uint32_t uid, gid; char name[64], home[256], shell[256]; };
int find_user(const char *text, struct user *user);
int become_user(const struct user *user);

/* files.c, tree.c: what a child does; 0 or an error, with the file's name in `report_text`. */
extern char report_text[MAX_TEXT];
void name_in_report(const char *name);
int file_operation(const struct wanted *wanted);
long make_entry(int directory, const char *name, int follow, char *record);
void entry_of(struct entry *entry, const struct stat *stat);
int make_directories(char *path, uint32_t mode);
int copy_in(const struct wanted *wanted);
int copy_out(const struct wanted *wanted);
int remove_tree(int directory, const char *name);

/* machine.c */
size_t machine_info(char *text, size_t size);
void machine_time(uint64_t times[2]);
int machine_power(uint32_t mode, int forced);

/* session.c: serves one connection; returns when it is lost. */
void serve(int fd, int children);

/* main.c */
int agent_main(int count, char **arguments, char **variables);
extern uint64_t given_mask;
extern struct rlimit64 given_files;

#endif
