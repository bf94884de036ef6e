/* NumPy's .npy files: float32, little-endian, C order. */
#include "runner.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_VALUES ((int64_t)1 << 33)

int64_t array_size(const struct array *array) {
    int64_t size = 1;
    for (int i = 0; i < array->rank; i++)
        size *= array->shape[i];
    return size;
}

static void read_shape(const char *path, const char *header, struct array *array) {
    const char *at = strstr(header, "'shape':");
    at = at ? strchr(at, '(') : NULL;
    if (!at || !strstr(header, "'<f4'") || !strstr(header, "'fortran_order': False"))
        fail(BAD_INPUT, "inputs %s: expected a float32 array in C order", path);
    int64_t size = 1;
    for (at++; *at && *at != ')';) {
        char *end;
        long long length = strtoll(at, &end, 10);
        if (end == at || length < 0 || array->rank == MAX_RANK || length > MAX_VALUES)
            fail(BAD_INPUT, "inputs %s: its shape cannot be read", path);
        array->shape[array->rank++] = length;
        size *= length;
        if (size > MAX_VALUES)
            fail(BAD_INPUT, "inputs %s: too large", path);
        at = end + strspn(end, ", ");
    }
}

struct array npy_read(const char *path) {
    struct array array = {0};
    unsigned char start[12] = {0};
    FILE *file = fopen(path, "rb");
    if (!file)
        fail(BAD_INPUT, "inputs %s cannot be read: %s", path, strerror(errno));
    size_t got = fread(start, 1, 10, file);
    if (got != 10 || memcmp(start, "\x93NUMPY", 6) != 0 || start[6] < 1 || start[6] > 3)
        fail(BAD_INPUT, "inputs %s: not a .npy file", path);
    size_t length = start[8] | (size_t)start[9] << 8;
    if (start[6] > 1) {
        if (fread(start + 10, 1, 2, file) != 2)
            fail(BAD_INPUT, "inputs %s: truncated", path);
        length |= (size_t)start[10] << 16 | (size_t)start[11] << 24;
    }
    if (length > 1 << 16)
        fail(BAD_INPUT, "inputs %s: its header is too long", path);
    char *header = need(calloc(1, length + 1));
    if (fread(header, 1, length, file) != length)
        fail(BAD_INPUT, "inputs %s: truncated", path);
    read_shape(path, header, &array);
    free(header);
    size_t count = (size_t)array_size(&array);
    array.data = need(malloc(count * sizeof(float) + 1));
    if (fread(array.data, sizeof(float), count, file) != count)
        fail(BAD_INPUT, "inputs %s: truncated", path);
    fclose(file);
    return array;
}

void npy_write(const char *path, const struct array *array) {
    char header[256];
    int used = snprintf(header, sizeof header, "{'descr': '<f4', 'fortran_order': False, 'shape': (");
    for (int i = 0; i < array->rank; i++)
        used += snprintf(header + used, sizeof header - (size_t)used, "%lld,",
                         (long long)array->shape[i]);
    used += snprintf(header + used, sizeof header - (size_t)used, "), }");
    while ((10 + used + 1) % 64) /* numpy wants the data aligned */
        header[used++] = ' ';
    header[used++] = '\n';
    unsigned char start[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0};
    start[8] = (unsigned char)used;
    start[9] = (unsigned char)(used >> 8);
    size_t count = (size_t)array_size(array);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(start, 1, 10, file) != 10 ||
        fwrite(header, 1, (size_t)used, file) != (size_t)used ||
        fwrite(array->data, sizeof(float), count, file) != count || fclose(file) != 0)
        fail(BAD_INPUT, "output %s cannot be written: %s", path, strerror(errno));
}
