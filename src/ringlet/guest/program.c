/* From a request to a running program: user, environment, directory, and where the program is. */
#include "agent.h"

static const char DEFAULT_PATH[] =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
static const char *const PASSED[] = {"PATH", "LANG", "TZ"};

enum { OWN = 16, OWN_SIZE = 512 };
static char own[OWN][OWN_SIZE];

void fail(int report, int error, enum stage stage, const char *text)
{
    static struct failure failure;

    failure.error = error;
    failure.stage = stage;
    append(failure.text, sizeof failure.text, text);
    write_all(report, &failure, sizeof failure);
    leave(127);
}

static int same_name(const char *a, const char *b)
{
    while (*a && *a == *b && *a != '=')
        a++, b++;
    return *a == '=' && *b == '=';
}

/* A later value of a variable takes the earlier one's place. */
static void set(char **variables, size_t *count, const char *variable)
{
    size_t i;

    for (i = 0; i < *count && !same_name(variables[i], variable); i++)
        ;
    variables[i] = (char *)(uintptr_t)variable;
    if (i == *count)
        ++*count;
}

static void set_own(char **variables, size_t *count, unsigned *used, const char *name,
                    const char *value)
{
    char *text = own[*used];

    text[0] = 0;
    if (value && value[0] && append(text, OWN_SIZE, name) && append(text, OWN_SIZE, "=")
        && append(text, OWN_SIZE, value)) {
        (*used)++;
        set(variables, count, text);
    }
}

/* What a login sets, then what is wanted. */
static char **make_environment(const struct wanted *wanted, const struct user *user)
{
    size_t count = 0, most = count_fields(wanted, T_VARIABLE) + OWN + 1;
    char **variables = pages(most * sizeof *variables);
    const char *at = NULL;
    unsigned i, used = 0;

    if (!variables)
        return NULL;
    if (!(wanted->request.flags & F_ONLY_GIVEN)) {
        set_own(variables, &count, &used, "PATH", DEFAULT_PATH);
        for (i = 0; i < sizeof PASSED / sizeof *PASSED; i++)
            set_own(variables, &count, &used, PASSED[i], from_environment(PASSED[i]));
        set_own(variables, &count, &used, "HOME", user->home);
        set_own(variables, &count, &used, "USER", user->name);
        set_own(variables, &count, &used, "LOGNAME", user->name);
        set_own(variables, &count, &used, "SHELL", user->shell);
        if (wanted->request.flags & F_TERMINAL)
            set_own(variables, &count, &used, "TERM", "linux");
    }
    while ((at = next_field(wanted, T_VARIABLE, at)))
        set(variables, &count, at);
    return variables;
}

static char **make_arguments(const struct wanted *wanted)
{
    size_t count = 0;
    char **arguments = pages((count_fields(wanted, T_ARGUMENT) + 1) * sizeof *arguments);
    const char *at = NULL;

    while (arguments && (at = next_field(wanted, T_ARGUMENT, at)))
        arguments[count++] = (char *)(uintptr_t)at;
    return arguments;
}

static int is_directory(const char *path)
{
    struct stat stat;

    return !CALL(stat, path, &stat) && (stat.st_mode & S_IFMT) == S_IFDIR;
}

/* Try one file.  Returns the error, a missing interpreter as ELIBBAD. */
static int try(const char *path, char **arguments, char **variables)
{
    int error = (int)-CALL(execve, path, arguments, variables);

    if (error == ENOENT && !CALL(access, path, 0))
        return ELIBBAD;
    return error == EACCES && is_directory(path) ? EISDIR : error;
}

static int search(const char *name, const char *path, char **arguments, char **variables)
{
    char file[PATH_MAX];
    int error, found = ENOENT;
    size_t length;

    for (;; path += length + 1) {
        for (length = 0; path[length] && path[length] != ':'; length++)
            ;
        if (length + strlen(name) + 2 <= sizeof file) {
            memcpy(file, path, length);
            file[length] = 0;
            if (length)
                append(file, sizeof file, "/");
            append(file, sizeof file, name);
            error = try(file, arguments, variables);
            if (error == EACCES && CALL(access, file, 0))
                error = ENOENT; /* in a directory that is closed to the user */
            if (error != ENOENT && error != ENOTDIR && error != EISDIR && found != EACCES)
                found = error;
            if (found != ENOENT && found != EACCES)
                return found;
        }
        if (!path[length])
            return found;
    }
}

static const char *path_of(char **variables)
{
    for (; *variables; variables++)
        if (same_name(*variables, "PATH="))
            return *variables + sizeof "PATH=" - 1;
    return DEFAULT_PATH;
}

static int has_slash(const char *text)
{
    while (*text && *text != '/')
        text++;
    return *text;
}

void become_program(const struct wanted *wanted, int report)
{
    static struct user user;
    const char *directory = field(wanted, T_DIRECTORY), *name = field(wanted, T_USER);
    char **arguments = make_arguments(wanted), **variables;
    int error;
    long result;

    if ((error = find_user(name, &user)))
        fail(report, -error, S_USER, name ? name : "");
    if (wanted->request.flags & F_TERMINAL)
        CALL(fchown, 0, user.uid, -1);
    if (name && (error = become_user(&user)))
        fail(report, -error, S_USER, name);
    variables = make_environment(wanted, &user);
    if (!arguments || !variables)
        fail(report, ENOMEM, S_START, "");
    if (!arguments[0] || !arguments[0][0])
        fail(report, ENOENT, S_PROGRAM, "");
    result = CALL(chdir, directory ? directory : user.home);
    if (result < 0 && directory)
        fail(report, (int)-result, S_DIRECTORY, directory);
    if (result < 0)
        CALL(chdir, "/");
    error = has_slash(arguments[0]) ? try(arguments[0], arguments, variables)
                                    : search(arguments[0], path_of(variables), arguments,
                                             variables);
    if (error == ELIBBAD)
        fail(report, ENOENT, S_INTERPRETER, arguments[0]);
    fail(report, error, S_PROGRAM, arguments[0]);
}
