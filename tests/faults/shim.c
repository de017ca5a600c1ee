/* Makes one call of a program to the file system fail, for tests of what is left behind. Loaded with LD_PRELOAD.
 *
 * The calls that change files are numbered from 1 as they come. Environment:
 *   SPO_FAULT_AT     the number of the call that fails; 0 for none
 *   SPO_FAULT_MODE   once: that call fails. full: it and all later ones fail, as on a full disk. die: the process ends
 *                    there, without cleaning up. memory: not a file, but the mapping of memory with this number fails.
 *   SPO_FAULT_COUNT  a file that gets a line with the numbers of calls and of mappings when a process ends
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long calls, mappings;
static long at;
static enum { ONCE, FULL, DIE, MEMORY } mode;
static int active;

__attribute__((constructor)) static void begin(void) {
    const char *number = getenv("SPO_FAULT_AT"), *name = getenv("SPO_FAULT_MODE");
    at = number ? atol(number) : 0;
    mode = !name ? ONCE : !strcmp(name, "full") ? FULL : !strcmp(name, "die") ? DIE : !strcmp(name, "memory") ? MEMORY : ONCE;
    active = number != NULL;
}

__attribute__((destructor)) static void end(void) {
    const char *path = getenv("SPO_FAULT_COUNT");
    active = 0;
    FILE *file = path ? fopen(path, "a") : NULL;
    if (file) {
        fprintf(file, "%ld %ld\n", (long)calls, (long)mappings);
        fclose(file);
    }
}

/* Whether this call fails; then errno is set. */
static int fails(int error) {
    if (!active || mode == MEMORY) return 0;
    long number = atomic_fetch_add(&calls, 1) + 1;
    if (at == 0 || number < at || (mode == ONCE && number > at)) return 0;
    if (mode == DIE) _exit(99);
    errno = error;
    return 1;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static int writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT); }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        va_list more; \
        va_start(more, flags); \
        mode_t bits = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more); \
        if (writes(flags) && fails(ENOSPC)) return -1; \
        return real(path, flags, bits); \
    }
OPEN(open)
OPEN(open64)

#define CALL(result, name, parameters, arguments, error) \
    result name parameters { \
        REAL(name); \
        if (fails(error)) return -1; \
        return real arguments; \
    }
CALL(int, fsync, (int fd), (fd), EIO)
CALL(int, fdatasync, (int fd), (fd), EIO)
CALL(int, ftruncate, (int fd, off_t length), (fd, length), EIO)
CALL(int, ftruncate64, (int fd, off64_t length), (fd, length), EIO)
CALL(int, rename, (const char *from, const char *to), (from, to), EIO)
CALL(int, mkdir, (const char *path, mode_t bits), (path, bits), ENOSPC)
CALL(int, unlink, (const char *path), (path), EIO)
CALL(int, rmdir, (const char *path), (path), EIO)
CALL(int, unlinkat, (int folder, const char *path, int flags), (folder, path, flags), EIO)

ssize_t write(int fd, const void *bytes, size_t length) {
    REAL(write);
    /* Half of what was to be written is there: a torn write. */
    if (fd > 2 && fails(ENOSPC)) {
        if (mode == ONCE && length > 1 && real(fd, bytes, length / 2) < 0) return -1;
        errno = ENOSPC;
        return -1;
    }
    return real(fd, bytes, length);
}

void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    REAL(mmap);
    if (active && fd < 0) {
        long number = atomic_fetch_add(&mappings, 1) + 1;
        if (mode == MEMORY && at != 0 && number >= at) {
            errno = ENOMEM;
            return MAP_FAILED;
        }
    }
    return real(address, length, protection, flags, fd, offset);
}
