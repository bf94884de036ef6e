/* The result goes into a buffer, so that a failure halfway prints no half result. */
#include "runner.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *buffer;
static size_t used, room;

static void grow(size_t more) {
    if (used + more + 1 > room) {
        room = (used + more + 1) * 2;
        buffer = need(realloc(buffer, room));
    }
}

void out(const char *format, ...) {
    va_list list, again;
    va_start(list, format);
    va_copy(again, list);
    int length = vsnprintf(NULL, 0, format, list);
    grow((size_t)length);
    vsnprintf(buffer + used, (size_t)length + 1, format, again);
    used += (size_t)length;
    va_end(again);
    va_end(list);
}

void out_text(const char *text) {
    out("\"");
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c == '"' || *c == '\\')
            out("\\%c", *c);
        else if (*c < 0x20)
            out("\\u%04x", *c);
        else
            out("%c", *c);
    }
    out("\"");
}

void out_number(double value) {
    char text[40];
    for (int digits = 6; digits <= 17; digits += digits < 15 ? 3 : 1) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    /* JSON has no name for infinities and NaN; Python reads these. */
    out("%s", isfinite(value) ? text : isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity");
}

void out_flush(void) {
    size_t done = 0;
    out("\n");
    while (done < used) {
        ssize_t step = write(STDOUT_FILENO, buffer + done, used - done);
        if (step <= 0)
            _exit(INTERNAL);
        done += (size_t)step;
    }
    used = 0;
}

static _Noreturn void give_up(enum kind kind, const char *hint, const char *format, va_list list) {
    char text[600];
    const char *name = kind == BAD_INPUT ? "bad-input" : kind == MISSING ? "missing" : "internal";
    vsnprintf(text, sizeof text, format, list);
    for (char *c = text; *c; c++) /* one line, whatever the runtime said */
        if (*c == '\n' || *c == '\r' || *c == '\t')
            *c = ' ';
    used = 0;
    out("\n{\"ok\": false, \"error\": ");
    out_text(text);
    out(", \"kind\": \"%s\", \"hint\": ", name);
    out_text(hint);
    out("}");
    out_flush();
    _exit(kind);
}

void fail(enum kind kind, const char *format, ...) {
    va_list list;
    va_start(list, format);
    give_up(kind, "", format, list);
}

void fail_hint(enum kind kind, const char *hint, const char *format, ...) {
    va_list list;
    va_start(list, format);
    give_up(kind, hint, format, list);
}

void *need(void *memory) {
    static const char text[] =
        "\n{\"ok\": false, \"error\": \"out of memory\", \"kind\": \"bad-input\", \"hint\": \"\"}\n";
    if (!memory) {
        if (write(STDOUT_FILENO, text, sizeof text - 1) < 0)
            _exit(INTERNAL);
        _exit(BAD_INPUT);
    }
    return memory;
}
