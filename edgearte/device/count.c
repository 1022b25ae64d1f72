// A plugin of qemu's user mode that counts the instructions a program executes.
//
// qemu-aarch64 -plugin count.so,out=FILE PROGRAM… appends lines `phase number count` to FILE: one for each system call of the number MARK,
// whose first two arguments are phase and number (no kernel knows the call: it fails, and does nothing), and `0 0 count` at the end. The
// count is of all threads since the start. Where a program forks, only the first process is counted.

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

// What is used here of qemu's include/qemu/qemu-plugin.h, which Debian does not package: these have not changed from API version 1 (qemu 7)
// to 5 (qemu 10). API is the version to be told: qemu refuses those that it no longer, or not yet, knows.
typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_CB_R_REGS, QEMU_PLUGIN_CB_RW_REGS };
typedef void (*qemu_plugin_udata_cb_t)(qemu_plugin_id_t, void *);
typedef void (*qemu_plugin_vcpu_udata_cb_t)(unsigned int, void *);
typedef void (*qemu_plugin_vcpu_tb_trans_cb_t)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*qemu_plugin_vcpu_syscall_cb_t)(qemu_plugin_id_t, unsigned int, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                                              uint64_t, uint64_t, uint64_t);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, qemu_plugin_vcpu_tb_trans_cb_t);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, qemu_plugin_vcpu_udata_cb_t, enum qemu_plugin_cb_flags, void *);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, qemu_plugin_vcpu_syscall_cb_t);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, qemu_plugin_udata_cb_t, void *);

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = API;

enum { MARK = 0xE47, THREADS = 1024 };

// A count for each thread, on cache lines of their own: what all add to in one place is lost where two add at once.
static struct { uint64_t count, apart[7]; } counts[THREADS];
static FILE *out;
static pid_t first;

static void executed(unsigned int thread, void *instructions) { counts[thread % THREADS].count += (uintptr_t) instructions; }

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
    (void) id;
    void *instructions = (void *) (uintptr_t) qemu_plugin_tb_n_insns(block);
    qemu_plugin_register_vcpu_tb_exec_cb(block, executed, QEMU_PLUGIN_CB_NO_REGS, instructions);
}

static void tell(uint64_t phase, uint64_t number) {
    if (getpid() != first) return;
    uint64_t all = 0;
    for (int thread = 0; thread < THREADS; thread++) all += counts[thread].count;
    fprintf(out, "%" PRIu64 " %" PRIu64 " %" PRIu64 "\n", phase, number, all);
    fflush(out);
}

static void called(qemu_plugin_id_t id, unsigned int thread, int64_t call, uint64_t phase, uint64_t number, uint64_t c, uint64_t d,
                   uint64_t e, uint64_t f, uint64_t g, uint64_t h) {
    (void) id, (void) thread, (void) c, (void) d, (void) e, (void) f, (void) g, (void) h;
    if (call == MARK) tell(phase, number);
}

static void ended(qemu_plugin_id_t id, void *nothing) {
    (void) id, (void) nothing;
    tell(0, 0);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int count, char **given) {
    (void) info;
    for (int k = 0; k < count; k++)
        if (!strncmp(given[k], "out=", 4)) out = fopen(given[k] + 4, "a");
    if (!out) {
        fprintf(stderr, "count.so: out=FILE is missing, or cannot be written\n");
        return 1;
    }
    first = getpid();
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
