/* Loaded into qkey by LD_PRELOAD: the fsync(2) whose number HOLD_FSYNC gives creates the file "held",
 * and returns once that file is gone, as on a slow disk. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static int calls;

int fsync(int fd)
{
    const char *held = getenv("HOLD_FSYNC");
    if (held != NULL && ++calls == atoi(held)) {
        close(open("../held", O_WRONLY | O_CREAT, 0600));
        while (access("../held", F_OK) == 0)
            usleep(1000);
    }
    return (int)syscall(SYS_fsync, fd);
}
