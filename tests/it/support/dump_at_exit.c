/* Loaded into qkey by LD_PRELOAD: when it exits, writes its memory to the file that DUMP_AT_EXIT
 * names, and whether other processes could have read it. A process may always read its own memory,
 * so this needs no privilege, whatever PR_SET_DUMPABLE says. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define PAGE 4096

static char dump_path[4096];
static const char zeros[PAGE];
static char page[PAGE];

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("DUMP_AT_EXIT");
    if (path != NULL && strlen(path) < sizeof dump_path)
        strcpy(dump_path, path);
    /* Children of qkey write no dumps. */
    unsetenv("LD_PRELOAD");
    unsetenv("DUMP_AT_EXIT");
}

__attribute__((destructor)) static void end(void)
{
    char line[8192];
    FILE *maps = fopen("/proc/self/maps", "r");
    int dump = open(dump_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    int through[2];
    if (maps == NULL || dump < 0 || pipe(through) != 0)
        return;
    while (fgets(line, sizeof line, maps) != NULL) {
        unsigned long start, stop;
        char mode[5];
        if (sscanf(line, "%lx-%lx %4s", &start, &stop, mode) != 3)
            continue;
        if (mode[0] != 'r' || mode[1] != 'w')
            continue;
        for (; start < stop; start += PAGE) {
            /* Other threads may still unmap pages, and the kernel copes with that. */
            if (write(through[1], (const void *)start, PAGE) != PAGE)
                continue;
            if (read(through[0], page, PAGE) != PAGE)
                _exit(99);
            if (memcmp(page, zeros, PAGE) != 0 && write(dump, page, PAGE) != PAGE)
                _exit(99);
        }
    }
    dprintf(dump, "PR_GET_DUMPABLE is %d\n", prctl(PR_GET_DUMPABLE));
    close(dump);
}
