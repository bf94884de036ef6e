/* A small JSON reader: enough for a job, strict about what it does not know. */
#include "runner.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH 32

struct reader {
    const char *at;
    bool wrong;
    int depth;
};

static struct json *value(struct reader *reader);

static void space(struct reader *reader) {
    while (*reader->at == ' ' || *reader->at == '\t' || *reader->at == '\n' || *reader->at == '\r')
        reader->at++;
}

static bool take(struct reader *reader, const char *word) {
    size_t length = strlen(word);
    if (strncmp(reader->at, word, length) != 0)
        return false;
    reader->at += length;
    return true;
}

static unsigned hex4(struct reader *reader) {
    unsigned code = 0;
    for (int i = 0; i < 4; i++) {
        char c = *reader->at;
        if (!isxdigit((unsigned char)c)) {
            reader->wrong = true;
            return 0;
        }
        code = code * 16 + (unsigned)(c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
        reader->at++;
    }
    return code;
}

static char *utf8(char *target, unsigned code) {
    if (code < 0x80) {
        *target++ = (char)code;
    } else if (code < 0x800) {
        *target++ = (char)(0xc0 | code >> 6);
        *target++ = (char)(0x80 | (code & 63));
    } else if (code < 0x10000) {
        *target++ = (char)(0xe0 | code >> 12);
        *target++ = (char)(0x80 | (code >> 6 & 63));
        *target++ = (char)(0x80 | (code & 63));
    } else {
        *target++ = (char)(0xf0 | code >> 18);
        *target++ = (char)(0x80 | (code >> 12 & 63));
        *target++ = (char)(0x80 | (code >> 6 & 63));
        *target++ = (char)(0x80 | (code & 63));
    }
    return target;
}

static char *escaped(struct reader *reader, char *target) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *found = *reader->at ? strchr(from, *reader->at) : NULL;
    if (found) {
        reader->at++;
        *target++ = to[found - from];
        return target;
    }
    if (*reader->at != 'u') {
        reader->wrong = true;
        return target;
    }
    reader->at++;
    unsigned code = hex4(reader);
    if (code >= 0xd800 && code < 0xdc00 && take(reader, "\\u"))
        code = 0x10000 + ((code - 0xd800) << 10) + (hex4(reader) - 0xdc00);
    return utf8(target, code & 0x1fffff);
}

static char *string(struct reader *reader) {
    if (*reader->at != '"') {
        reader->wrong = true;
        return NULL;
    }
    /* The decoded text is never longer than the escaped one. */
    char *text = need(malloc(strlen(++reader->at) + 1)), *target = text;
    while (!reader->wrong && *reader->at != '"') {
        if ((unsigned char)*reader->at < 0x20) {
            reader->wrong = true;
        } else if (*reader->at == '\\') {
            reader->at++;
            target = escaped(reader, target);
        } else {
            *target++ = *reader->at++;
        }
    }
    if (!reader->wrong)
        reader->at++;
    *target = 0;
    return text;
}

static void members(struct reader *reader, struct json *parent, char end) {
    struct json **last = &parent->first;
    reader->at++;
    space(reader);
    if (*reader->at == end) {
        reader->at++;
        return;
    }
    if (++reader->depth > MAX_DEPTH)
        reader->wrong = true;
    while (!reader->wrong) {
        char *key = NULL;
        space(reader);
        if (end == '}') {
            key = string(reader);
            space(reader);
            if (reader->wrong || *reader->at++ != ':') {
                reader->wrong = true;
                return;
            }
        }
        struct json *item = value(reader);
        item->key = key;
        *last = item;
        last = &item->next;
        space(reader);
        if (*reader->at == end)
            break;
        if (*reader->at++ != ',')
            reader->wrong = true;
    }
    if (!reader->wrong)
        reader->at++;
    reader->depth--;
}

static struct json *value(struct reader *reader) {
    struct json *item = need(calloc(1, sizeof *item));
    space(reader);
    char c = *reader->at;
    if (c == '{' || c == '[') {
        item->type = c == '{' ? J_OBJECT : J_ARRAY;
        members(reader, item, c == '{' ? '}' : ']');
    } else if (c == '"') {
        item->type = J_STRING;
        item->text = string(reader);
    } else if (take(reader, "true")) {
        item->type = J_BOOL;
        item->number = 1;
    } else if (take(reader, "false")) {
        item->type = J_BOOL;
    } else if (!take(reader, "null")) {
        char *end;
        item->type = J_NUMBER;
        item->number = strtod(reader->at, &end);
        if (end == reader->at || !(c == '-' || isdigit((unsigned char)c)) || !isfinite(item->number))
            reader->wrong = true;
        reader->at = end;
    }
    return item;
}

struct json *json_parse(const char *text) {
    struct reader reader = {text, false, 0};
    struct json *root = value(&reader);
    space(&reader);
    return reader.wrong || *reader.at ? NULL : root;
}

const struct json *json_get(const struct json *object, const char *key) {
    if (!object || object->type != J_OBJECT)
        return NULL;
    for (const struct json *item = object->first; item; item = item->next)
        if (!strcmp(item->key, key))
            return item->type == J_NULL ? NULL : item;
    return NULL;
}

const char *json_text(const struct json *object, const char *key, const char *otherwise) {
    const struct json *item = json_get(object, key);
    if (!item)
        return otherwise;
    if (item->type != J_STRING)
        fail(BAD_INPUT, "job: %s must be a text", key);
    return item->text;
}

double json_number(const struct json *object, const char *key, double otherwise) {
    const struct json *item = json_get(object, key);
    if (!item)
        return otherwise;
    if (item->type != J_NUMBER && item->type != J_BOOL)
        fail(BAD_INPUT, "job: %s must be a number", key);
    return item->number;
}

int json_int(const struct json *object, const char *key, int otherwise, int least, int most) {
    double number = json_number(object, key, otherwise);
    if (number != floor(number) || number < least || number > most)
        fail(BAD_INPUT, "%s must be a whole number from %d to %d, found %g", key, least, most,
             number);
    return (int)number;
}

size_t json_length(const struct json *list) {
    size_t length = 0;
    for (const struct json *item = list ? list->first : NULL; item; item = item->next)
        length++;
    return length;
}
