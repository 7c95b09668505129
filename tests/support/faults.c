/* Count, list and fail what a process writes below one folder.
 *
 * Loaded by LD_PRELOAD in front of the C library, so that it also sees what compiled libraries write (Arrow, SQLite,
 * safetensors). It does nothing until faults_watch() names the folder. Processes that this one starts are not watched.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(type, name, ...)                                                                                          \
    static type (*real)(__VA_ARGS__);                                                                                  \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)
#define FILES 65536
#define KILL (-1)

static char root[PATH_MAX];
static char *paths[FILES]; /* of files that are open for writing below the root, by descriptor */
static long count, target;
static int fault, lasting, struck, listing = -1;
static __thread int busy;

/* Watch what is written below a folder.
 *
 * number: of the operation at which it happens, from 1; 0: none. error: an errno, or KILL. list: a file descriptor to
 * which each operation is written; SIGUSR1 follows, whose handler may add the stack, or -1. Returns nothing. */
void faults_watch(const char *folder, long number, int error, int stays, int list) {
    snprintf(root, sizeof root, "%s/", folder);
    count = 0, struck = 0, target = number, fault = error, lasting = stays, listing = list;
}

int faults_struck(void) { return struck; }
long faults_count(void) { return count; }

static int absolute(int folder, const char *path, char *found) {
    if (!path || !*path) return 0;
    if (*path == '/') return snprintf(found, PATH_MAX, "%s", path) > 0;
    char place[PATH_MAX], link[64];
    if (folder == AT_FDCWD) {
        if (!getcwd(place, sizeof place)) return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t size = readlink(link, place, sizeof place - 1);
        if (size < 0) return 0;
        place[size] = 0;
    }
    return snprintf(found, PATH_MAX, "%.2000s/%.2000s", place, path) > 0;
}

/* An errno if this operation is to fail, KILL if the process is to end here, else 0. */
static int strike(const char *operation, int folder, const char *path, int needs_space) {
    char place[PATH_MAX];
    if (!*root || busy || !absolute(folder, path, place) || strncmp(place, root, strlen(root))) return 0;
    int before = errno;
    busy = 1;
    long number = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    if (listing >= 0) {
        dprintf(listing, "%ld\t%s\t%s\n", number, operation, place + strlen(root));
        raise(SIGUSR1);
    }
    busy = 0;
    errno = before;
    if (number == target) return struck = 1, fault;
    return struck && lasting && needs_space ? fault : 0;
}

static int fail(int error) {
    if (error == KILL) kill(getpid(), SIGKILL);
    errno = error;
    return -1;
}

static void forget(int file) {
    if (file >= 0 && file < FILES && paths[file]) free(paths[file]), paths[file] = NULL;
}

static void remember(int file, int folder, const char *path, int flags) {
    forget(file);
    char place[PATH_MAX];
    if (file < 0 || file >= FILES || !*root || !(flags & (O_WRONLY | O_RDWR)) || !absolute(folder, path, place)) return;
    if (!strncmp(place, root, strlen(root))) paths[file] = strdup(place);
}

static int opening(int folder, const char *path, int flags) {
    if (!(flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) || (flags & O_TMPFILE) == O_TMPFILE) return 0;
    return strike("open", folder, path, flags & O_CREAT);
}

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...) {                                                                       \
        REAL(int, name, const char *, int, ...);                                                                       \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        int mode = va_arg(more, int), error = opening(AT_FDCWD, path, flags);                                          \
        va_end(more);                                                                                                  \
        if (error) return fail(error);                                                                                 \
        int file = real(path, flags, mode);                                                                            \
        remember(file, AT_FDCWD, path, flags);                                                                         \
        return file;                                                                                                   \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                                                   \
    int name(int folder, const char *path, int flags, ...) {                                                           \
        REAL(int, name, int, const char *, int, ...);                                                                  \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        int mode = va_arg(more, int), error = opening(folder, path, flags);                                            \
        va_end(more);                                                                                                  \
        if (error) return fail(error);                                                                                 \
        int file = real(folder, path, flags, mode);                                                                    \
        remember(file, folder, path, flags);                                                                           \
        return file;                                                                                                   \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name)                                                                                                    \
    FILE *name(const char *path, const char *mode) {                                                                   \
        REAL(FILE *, name, const char *, const char *);                                                                \
        int flags = strpbrk(mode, "wa+") ? O_RDWR | O_CREAT : O_RDONLY, error = opening(AT_FDCWD, path, flags);        \
        if (error) return fail(error), NULL;                                                                           \
        FILE *file = real(path, mode);                                                                                 \
        if (file) remember(fileno(file), AT_FDCWD, path, flags);                                                       \
        return file;                                                                                                   \
    }
FOPEN(fopen)
FOPEN(fopen64)

int close(int file) {
    REAL(int, close, int);
    forget(file);
    return real(file);
}

int fclose(FILE *file) {
    REAL(int, fclose, FILE *);
    forget(fileno(file));
    return real(file);
}

/* A write that fails, or is cut off by a kill, has written half of what it was given. */
#define WRITE(name, parameters, types, half, whole)                                                                    \
    ssize_t name parameters {                                                                                          \
        REAL(ssize_t, name, types);                                                                                    \
        int error = file >= 0 && file < FILES && paths[file] ? strike("write", AT_FDCWD, paths[file], 1) : 0;          \
        if (!error) return real whole;                                                                                 \
        if (real half < 0) return -1;                                                                                  \
        return fail(error);                                                                                            \
    }
#define COMMA ,
WRITE(write, (int file, const void *from, size_t size), int COMMA const void * COMMA size_t, (file, from, size / 2),
      (file, from, size))
WRITE(pwrite, (int file, const void *from, size_t size, off_t at), int COMMA const void * COMMA size_t COMMA off_t,
      (file, from, size / 2, at), (file, from, size, at))
WRITE(pwrite64, (int file, const void *from, size_t size, off64_t at), int COMMA const void * COMMA size_t COMMA off64_t,
      (file, from, size / 2, at), (file, from, size, at))
WRITE(writev, (int file, const struct iovec *from, int parts), int COMMA const struct iovec * COMMA int,
      (file, from, parts / 2), (file, from, parts))

ssize_t sendfile64(int to, int from, off64_t *at, size_t size) {
    REAL(ssize_t, sendfile64, int, int, off64_t *, size_t);
    int error = to >= 0 && to < FILES && paths[to] ? strike("write", AT_FDCWD, paths[to], 1) : 0;
    return error ? fail(error) : real(to, from, at, size);
}

ssize_t sendfile(int to, int from, off_t *at, size_t size) {
    REAL(ssize_t, sendfile, int, int, off_t *, size_t);
    int error = to >= 0 && to < FILES && paths[to] ? strike("write", AT_FDCWD, paths[to], 1) : 0;
    return error ? fail(error) : real(to, from, at, size);
}

ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *there, size_t size, unsigned flags) {
    REAL(ssize_t, copy_file_range, int, off64_t *, int, off64_t *, size_t, unsigned);
    int error = to >= 0 && to < FILES && paths[to] ? strike("write", AT_FDCWD, paths[to], 1) : 0;
    return error ? fail(error) : real(from, at, to, there, size, flags);
}

#define PLAIN(name, operation, needs_space, parameters, types, folder, path, arguments)                                \
    int name parameters {                                                                                              \
        REAL(int, name, types);                                                                                        \
        int error = strike(operation, folder, path, needs_space);                                                      \
        return error ? fail(error) : real arguments;                                                                   \
    }
PLAIN(mkdir, "mkdir", 1, (const char *path, mode_t mode), const char * COMMA mode_t, AT_FDCWD, path, (path, mode))
PLAIN(mkdirat, "mkdir", 1, (int folder, const char *path, mode_t mode), int COMMA const char * COMMA mode_t, folder,
      path, (folder, path, mode))
PLAIN(rename, "rename", 1, (const char *from, const char *to), const char * COMMA const char *, AT_FDCWD, to,
      (from, to))
PLAIN(renameat, "rename", 1, (int from, const char *old, int folder, const char *to),
      int COMMA const char * COMMA int COMMA const char *, folder, to, (from, old, folder, to))
PLAIN(renameat2, "rename", 1, (int from, const char *old, int folder, const char *to, unsigned flags),
      int COMMA const char * COMMA int COMMA const char * COMMA unsigned, folder, to, (from, old, folder, to, flags))
PLAIN(link, "link", 1, (const char *from, const char *to), const char * COMMA const char *, AT_FDCWD, to, (from, to))
PLAIN(linkat, "link", 1, (int from, const char *old, int folder, const char *to, int flags),
      int COMMA const char * COMMA int COMMA const char * COMMA int, folder, to, (from, old, folder, to, flags))
PLAIN(symlink, "link", 1, (const char *target_, const char *to), const char * COMMA const char *, AT_FDCWD, to,
      (target_, to))
PLAIN(symlinkat, "link", 1, (const char *target_, int folder, const char *to),
      const char * COMMA int COMMA const char *, folder, to, (target_, folder, to))
PLAIN(unlink, "delete", 0, (const char *path), const char *, AT_FDCWD, path, (path))
PLAIN(unlinkat, "delete", 0, (int folder, const char *path, int flags), int COMMA const char * COMMA int, folder, path,
      (folder, path, flags))
PLAIN(remove, "delete", 0, (const char *path), const char *, AT_FDCWD, path, (path))
PLAIN(rmdir, "delete", 0, (const char *path), const char *, AT_FDCWD, path, (path))
PLAIN(truncate, "write", 1, (const char *path, off_t size), const char * COMMA off_t, AT_FDCWD, path, (path, size))
PLAIN(chmod, "chmod", 0, (const char *path, mode_t mode), const char * COMMA mode_t, AT_FDCWD, path, (path, mode))
PLAIN(fchmodat, "chmod", 0, (int folder, const char *path, mode_t mode, int flags),
      int COMMA const char * COMMA mode_t COMMA int, folder, path, (folder, path, mode, flags))
