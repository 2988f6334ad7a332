"""The memory of emulated instructions: one file, mapped to be written and to be run."""

cdef extern from * nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <sys/mman.h>
    #include <unistd.h>

    static int ringlet_native_map(unsigned size, void **write, void **run, int *fd)
    {
        *write = *run = MAP_FAILED;
        *fd = memfd_create("ringlet-native", MFD_CLOEXEC);
        if (*fd < 0 || ftruncate(*fd, size))
            return -1;
        *write = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
        *run = mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_32BIT, *fd, 0);
        return *write == MAP_FAILED || *run == MAP_FAILED ? -1 : 0;
    }
    static void ringlet_native_unmap(void *p, unsigned size) { if (p) munmap(p, size); }
    static void ringlet_native_close(int fd) { if (fd >= 0) close(fd); }
    """
    int ringlet_native_map(unsigned size, void** write, void** run, int* fd)
    void ringlet_native_unmap(void* p, unsigned size)
    void ringlet_native_close(int fd)
