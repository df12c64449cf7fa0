/* Records how much of each file is on the disk, for tests that lose the rest.
 *
 * Preloaded into a server. After each successful sync, the size that the file had before
 * it is appended to the file $PENSTOCK_SYNCED, with the file's path. While the file
 * $PENSTOCK_SYNCED.stall exists, a sync does not end; $PENSTOCK_SYNCED.stalled says that
 * one has begun.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static void stall(const char *journal) {
    char stop[4096], begun[4096];
    snprintf(stop, sizeof stop, "%s.stall", journal);
    snprintf(begun, sizeof begun, "%s.stalled", journal);
    if (access(stop, F_OK) != 0) return;
    int out = open(begun, O_WRONLY | O_CREAT, 0600);
    if (out >= 0) close(out);
    while (access(stop, F_OK) == 0) usleep(1000);
}

static void record(const char *journal, int fd, long long size) {
    char link[64], path[4096], line[4352];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return;
    path[length] = 0;
    int count = snprintf(line, sizeof line, "%lld %s\n", size, path);
    int out = open(journal, O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (out < 0) return;
    if (write(out, line, count) != count) abort();
    close(out);
}

static int sync_by(const char *name, int fd) {
    struct stat facts;
    const char *journal = getenv("PENSTOCK_SYNCED");
    int (*sync)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    if (journal != NULL) stall(journal);
    int known = fstat(fd, &facts) == 0;
    int result = sync(fd);
    if (result == 0 && known && journal != NULL) record(journal, fd, facts.st_size);
    return result;
}

int fsync(int fd) { return sync_by("fsync", fd); }
int fdatasync(int fd) { return sync_by("fdatasync", fd); }
