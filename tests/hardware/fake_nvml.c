/* Stands in for NVIDIA's library. FAKE_NVML holds words that say how it behaves. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define GIB (1024ull * 1024 * 1024)

typedef struct { int card, instance; } device;
typedef struct { unsigned long long total, free, used; } memory;
typedef struct {
    char legacy[16];
    unsigned domain, bus, slot, id, subsystem;
    char address[32];
} pci;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } process;
typedef struct {
    unsigned multiprocessors, copy, decoder, encoder, jpeg, ofa, gpu_slices, compute_slices;
    unsigned long long megabytes;
} attributes;

static device cards[4] = {{0, -1}, {1, -1}, {2, -1}, {3, -1}};
static device instances[7] = {{0, 0}, {0, 1}, {0, 2}, {0, 3}, {0, 4}, {0, 5}, {0, 6}};

static int says(const char *word) {
    const char *all = getenv("FAKE_NVML");
    size_t length = strlen(word);
    for (const char *at = all ? all : ""; (at = strstr(at, word)); at += length)
        if ((at == all || at[-1] == ' ') && (at[length] == ' ' || !at[length])) return 1;
    return 0;
}

static int number(const char *word, int otherwise) {
    const char *at = getenv("FAKE_NVML");
    at = at ? strstr(at, word) : NULL;
    return at ? atoi(at + strlen(word)) : otherwise;
}

static void note(void) {
    const char *name = getenv("FAKE_NVML_PID");
    FILE *file = name ? fopen(name, "w") : NULL;
    if (file) fprintf(file, "%d", getpid()), fclose(file);
}

__attribute__((destructor)) static void end(void) {
    if (says("note-end")) note();
}

static void hang(void) {
    signal(SIGTERM, SIG_IGN);
    note();
    for (;;) pause();
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    if (says("garbage")) {
        for (int i = 0; i < 3000; i++) printf("{\"kind\": \"gpu\", \"total\": 1}\n\xff\xfe garbage %d\nown 9999999\n", i);
        fflush(stdout);
    }
    if (says("hang-init")) hang();
    if (says("segv")) raise(SIGSEGV);
    if (says("abort")) abort();
    if (says("exit")) exit(1);
    if (says("quit")) exit(0);
    return number("init=", 0);
}

const char *nvmlErrorString(int code) { (void)code; return "an error of \xff this library"; }

int nvmlSystemGetDriverVersion(char *text, unsigned size) {
    struct rlimit core;
    if (says("core-limit") && !getrlimit(RLIMIT_CORE, &core)) {
        snprintf(text, size, "%llu", (unsigned long long)core.rlim_cur);
        return 0;
    }
    snprintf(text, size, "%s", says("strange-driver") ? "\xff\x01\x02" : "580.65.06");
    return 0;
}

int nvmlDeviceGetCount_v2(unsigned *count) { *count = (unsigned)number("cards=", 1); return number("count-error=", 0); }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device **found) {
    if (says("lost-second") && index == 1) return 15;
    *found = &cards[index & 3];
    return 0;
}

int nvmlDeviceGetPciInfo_v3(device *d, pci *info) {
    if (says("no-address")) return 3;
    memset(info, says("strange-address") ? 0xff : 0, sizeof *info);
    info->domain = 0;
    info->bus = (unsigned)(d->card + 1);
    info->slot = 0;
    return 0;
}

int nvmlDeviceGetName(device *d, char *name, unsigned size) {
    if (says("hang-second") && d->card == 1) hang();
    if (says("segv-second") && d->card == 1) raise(SIGSEGV);
    if (says("name-error")) return 999;
    if (says("long-name")) memset(name, 'X', size);
    else if (says("latin-name")) snprintf(name, size, "NVIDIA Qu\xe4" "dro\n\x1b[31m RTX");
    else if (says("empty-name")) snprintf(name, size, "  ");
    else if (says("gb10")) snprintf(name, size, "NVIDIA GB10");
    else if (d->instance >= 0 && !says("old-mig")) snprintf(name, size, "NVIDIA A100-SXM4-40GB MIG 1g.5gb");
    else if (says("mig") || says("old-mig")) snprintf(name, size, "NVIDIA A100-SXM4-40GB");
    else snprintf(name, size, d->card ? "NVIDIA GeForce RTX 3060" : "NVIDIA GeForce RTX 4090");
    return 0;
}

/* A line of FAKE_NVML_USE is `C card pid bytes` or `G card pid bytes` (computes, draws), or `U card 0 bytes`: all used. */
static unsigned listed(char kind, device *d, process *found, unsigned room) {
    const char *name = getenv("FAKE_NVML_USE");
    FILE *file = name ? fopen(name, "r") : NULL;
    char is;
    int card;
    unsigned pid, count = 0;
    unsigned long long bytes;
    while (file && fscanf(file, " %c %d %u %llu", &is, &card, &pid, &bytes) == 4) {
        if (is != kind || card != (d->instance >= 0 ? d->instance : d->card)) continue;
        if (count < room) found[count] = (process){pid, kind != 'U' && says("hidden") ? ~0ull : bytes, ~0u, ~0u};
        count++;
    }
    if (file) fclose(file);
    return count;
}

static int list(char kind, device *d, unsigned *count, process *found) {
    unsigned room = *count;
    if (says("hang-processes")) hang();
    if (says("segv-processes")) raise(SIGSEGV);
    if (says("no-processes")) return 3;
    *count = listed(kind, d, found, room);
    return *count > room ? 7 : 0;
}

#ifdef OLDER
#define nvmlDeviceGetComputeRunningProcesses_v3 nvmlDeviceGetComputeRunningProcesses_v2
#define nvmlDeviceGetGraphicsRunningProcesses_v3 nvmlDeviceGetGraphicsRunningProcesses_v2
#endif
int nvmlDeviceGetComputeRunningProcesses_v3(device *d, unsigned *count, process *found) {
    return list('C', d, count, found);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(device *d, unsigned *count, process *found) {
    return list('G', d, count, found);
}

int nvmlDeviceGetMemoryInfo(device *d, memory *m) {
    process all;
    if (says("hang-memory")) hang();
    if (says("no-memory") || says("gb10")) return 3;
    if (says("lost-memory")) return 15;
    m->total = (d->instance >= 0 ? 5 : d->card ? 12 : 24) * GIB;
    m->free = m->total - (listed('U', d, &all, 1) ? all.used : GIB);
    if (says("full")) m->free = 0;
    if (says("absurd")) m->total = m->free = ~0ull;
    if (says("petabytes")) m->total = 1ull << 50, m->free = 1ull << 49;
    if (says("more-free")) m->free = m->total + 1;
    if (says("zero")) m->total = m->free = 0;
    m->used = m->total - m->free;
    return 0;
}

int nvmlDeviceGetCudaComputeCapability(device *d, int *major, int *minor) {
    if (d->instance >= 0 || says("no-capability")) return 3;
    *major = says("strange-capability") ? -7 : 8;
    *minor = d->card ? 6 : 9;
    return 0;
}

int nvmlDeviceGetMigMode(device *d, unsigned *now, unsigned *then) {
    (void)d;
    if (!says("mig") && !says("old-mig") && !says("empty-mig")) return 3;
    *now = *then = 1;
    return 0;
}

int nvmlDeviceGetMaxMigDeviceCount(device *d, unsigned *count) { (void)d; *count = 7; return 0; }

int nvmlDeviceGetMigDeviceHandleByIndex(device *d, unsigned index, device **found) {
    (void)d;
    if (says("empty-mig") || index == 1 || index > 2) return 6;
    *found = &instances[index];
    return 0;
}

int nvmlDeviceGetAttributes_v2(device *d, attributes *found) {
    (void)d;
    memset(found, 0, sizeof *found);
    found->gpu_slices = 1;
    found->megabytes = 4864;
    return 0;
}
