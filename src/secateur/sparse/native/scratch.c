/* One growing buffer a thread, given back when the thread ends. */
#include <pthread.h>
#include <stdlib.h>

#include "interface.h"

enum { ALIGNMENT = 64 };

typedef struct {
    float *memory;
    size_t floats;
} Buffer;

static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void drop(void *held) {
    Buffer *buffer = held;
    free(buffer->memory);
    free(buffer);
}

static void make_key(void) { pthread_key_create(&key, drop); }

float *secateur_scratch(size_t floats) {
    pthread_once(&once, make_key);
    Buffer *buffer = pthread_getspecific(key);
    if (!buffer) {
        buffer = calloc(1, sizeof *buffer);
        if (!buffer) return NULL;
        if (pthread_setspecific(key, buffer)) {
            free(buffer);
            return NULL;
        }
    }
    if (buffer->floats < floats) {
        void *memory = NULL;
        if (posix_memalign(&memory, ALIGNMENT, floats * sizeof(float))) return NULL;
        free(buffer->memory);
        buffer->memory = memory;
        buffer->floats = floats;
    }
    return buffer->memory;
}
