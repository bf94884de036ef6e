#include "runner.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

const char *program_folder = ".";

void runtime_load_ort(void);
void runtime_load_litert(void);

void runtime_load(const char *runtime) {
    if (!strcmp(runtime, "onnxruntime"))
        runtime_load_ort();
    else if (!strcmp(runtime, "litert"))
        runtime_load_litert();
    else
        fail_hint(BAD_INPUT, "this runner knows onnxruntime and litert", "unknown runtime '%s'",
                  runtime);
}

struct model *model_open(const char *runtime, const char *path, int threads, bool optimize) {
    runtime_load(runtime);
    if (access(path, R_OK) != 0)
        fail(BAD_INPUT, "%s: no such file", path);
    return !strcmp(runtime, "litert") ? litert_open(path, threads)
                                      : ort_open(path, threads, optimize);
}

static char *read_all(FILE *file) {
    size_t used = 0, room = 4096;
    char *text = need(malloc(room));
    for (size_t got; (got = fread(text + used, 1, room - used - 1, file)) > 0;) {
        used += got;
        if (room - used < 2)
            text = need(realloc(text, room *= 2));
    }
    text[used] = 0;
    return text;
}

static void folder_of(const char *program) {
    char *copy = need(strdup(program)), *slash = strrchr(copy, '/');
    if (slash) {
        *slash = 0;
        program_folder = copy;
    }
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*job)(const struct json *);
    } modes[] = {
        {"run", job_run}, {"latency", job_latency}, {"memory", job_memory}, {"count", job_count}};
    struct utsname names;
    folder_of(argc ? argv[0] : "");
    const struct json *job = json_parse(read_all(stdin));
    if (!job || job->type != J_OBJECT)
        fail(BAD_INPUT, "job is not JSON");
    const char *mode = json_text(job, "mode", "");
    limit_memory((int64_t)json_number(job, "memory_limit", 0));
    uname(&names);
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        if (strcmp(modes[i].name, mode) != 0)
            continue;
        out("\n{\"ok\": true, \"mode\": \"%s\", \"runtime\": ", mode);
        out_text(json_text(job, "runtime", ""));
        out(", \"threads\": %d, \"runner\": \"compiled " RUNNER_VERSION "\", \"machine\": \"%s\"",
            json_int(job, "threads", 1, 1, 64), names.machine);
        const char *id = json_text(job, "id", NULL);
        if (id) {
            out(", \"id\": ");
            out_text(id);
        }
        modes[i].job(job);
        out("}");
        out_flush();
        _exit(0); /* runtimes may crash while tearing down; the answer is already out */
    }
    fail(BAD_INPUT, "job needs a mode out of run, latency, memory, count");
}
