/* For the library that checks itself: libc's own functions, and not a sanitizer's before them,
 * which read what bad pointers point to. Included before all else; see test_machines.py. */
#include <dlfcn.h>

#undef RTLD_NEXT
#define RTLD_NEXT dlopen("libc.so.6", RTLD_NOLOAD | RTLD_LAZY)
