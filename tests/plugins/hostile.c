/* A plugin that misbehaves in one way, chosen by a macro at compile time. Without a macro it is well-behaved. */

#include "spo.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef NAME
#define NAME "hostile"
#endif
#ifndef KIND
#define KIND SPO_KIND_OBJECTIVE
#endif
#ifndef VERSION
#define VERSION SPO_ABI_VERSION
#endif
#ifndef TABLE_SIZE
#define TABLE_SIZE sizeof(spo_plugin_table)
#endif
#ifndef FUNCTIONS_SIZE
#define FUNCTIONS_SIZE sizeof(spo_objective)
#endif
#ifndef SCHEMA
#define SCHEMA                                                                                                          \
    "{\"type\": \"object\", \"description\": \"minus the margin\", \"properties\": {\"beta\": {\"type\": \"number\","   \
    " \"minimum\": 0, \"default\": 1, \"description\": \"nothing\"}}}"
#endif

static int32_t fail(const spo_error *error, int32_t status, const char *message) {
    const spo_text none = {NULL, 0}, words = {message, strlen(message)};
    error->report(error->context, none, words, none);
    return status;
}

static int32_t create(const void *context, spo_text config, void **out, const spo_error *error) {
    (void)context;
    (void)config;
    (void)error;
    *out = calloc(1, sizeof(double));
    return SPO_OK;
}

static void destroy(void *self) {
    free(self);
}

static int32_t requirements(void *self, spo_requirements *out, const spo_error *error) {
    (void)self;
    (void)error;
#ifdef ODD_DATA
    out->data = 77;
#else
    out->data = SPO_PAIRS;
#endif
    return SPO_OK;
}

#ifdef ANNOUNCES
__attribute__((constructor)) static void announce(void) {
    static const char words[] = "a constructor runs\n";
    (void)!write(2, words, sizeof words - 1);
}
#endif

static int32_t evaluate(void *self, const spo_batch *batch, spo_evaluation *out, const spo_error *error) {
    const spo_ragged *w = &batch->chosen.policy, *l = &batch->rejected.policy;
    (void)self;
    if (batch->layout != SPO_PAIRS) return fail(error, SPO_BATCH, "pairs, please");
    for (size_t i = 0; i < w->rows; i++) {
        for (size_t t = w->offsets[i]; t < w->offsets[i + 1]; t++) {
            out->losses[i] -= w->values[t];
            out->grad_chosen[t] = -1.0 / (double)batch->whole_rows;
        }
        for (size_t t = l->offsets[i]; t < l->offsets[i + 1]; t++) {
            out->losses[i] += l->values[t];
            out->grad_rejected[t] = 1.0 / (double)batch->whole_rows;
        }
    }
#ifdef NAN_LOSS
    out->losses[0] = NAN;
#endif
#ifdef NAN_GRADIENT
    out->grad_chosen[0] = NAN;
#endif
#ifdef WRONG_GRADIENT
    out->grad_rejected[0] *= 1.001;
#endif
#ifdef PART_COUNTS
    for (size_t t = 0; t < w->offsets[w->rows]; t++) out->grad_chosen[t] = -1.0 / (double)w->rows;
#endif
#ifdef SLEEPS
    sleep(1000);
#endif
#ifdef LEAKS
    static void *volatile lost;
    lost = malloc(100);
    memset(lost, 1, 100);
#endif
#ifdef CHANGES_INPUTS
    ((double *)w->values)[0] = 0;
#endif
#ifdef WRITES_BEYOND
    out->grad_chosen[w->offsets[w->rows]] = 1;
#endif
#ifdef REMEMBERS
    out->losses[0] += (*(double *)self)++;
#endif
#ifdef CRASHES
    *(volatile int *)8 = 1;
#endif
#ifdef CRASHES_THIRD
    static int calls;
    if (++calls == 3) *(volatile int *)8 = 1;
#endif
#ifdef ABORTS
    abort();
#endif
#ifdef THROWS
    throw 1;
#endif
#ifdef ODD_STATUS
    return 42;
#endif
    return SPO_OK;
}

#ifdef DETACHED
/* Each pair weighed by how likely its chosen answer was at `at`, a constant for the gradient. */
static int32_t weighed(void *self, const spo_batch *at, const spo_batch *batch, spo_evaluation *out,
                       const spo_error *error) {
    const spo_ragged *w = &batch->chosen.policy, *l = &batch->rejected.policy;
    int32_t status = evaluate(self, batch, out, error);
    if (status != SPO_OK) return status;
    for (size_t i = 0; i < w->rows; i++) {
        double sum = 0;
        for (size_t t = w->offsets[i]; t < w->offsets[i + 1]; t++) sum += at->chosen.policy.values[t];
        double weight = exp(0.01 * sum);
        out->losses[i] *= weight;
        for (size_t t = w->offsets[i]; t < w->offsets[i + 1]; t++) out->grad_chosen[t] *= weight;
        for (size_t t = l->offsets[i]; t < l->offsets[i + 1]; t++) out->grad_rejected[t] *= weight;
    }
    return SPO_OK;
}

static int32_t evaluate_weighed(void *self, const spo_batch *batch, spo_evaluation *out, const spo_error *error) {
    return weighed(self, batch, batch, out, error);
}
#define evaluate evaluate_weighed
#endif

static const spo_objective functions = {
    FUNCTIONS_SIZE, create, destroy, requirements,
#ifdef NO_EVALUATE
    NULL,
#else
    evaluate,
#endif
    NULL, NULL, NULL,
#ifdef HELD
    weighed,
#else
    NULL,
#endif
};

static const spo_entry entry = {
    sizeof(spo_entry), KIND, SPO_TEXT(NAME), SPO_TEXT("minus the margin"), SPO_TEXT("a test"), SPO_TEXT(SCHEMA), NULL,
    &functions, NULL, 0,
};

#ifdef NULL_ENTRY
static const spo_entry *const entries[] = {NULL};
#else
static const spo_entry *const entries[] = {&entry};
#endif

static const spo_plugin_table table = {
    TABLE_SIZE, VERSION, SPO_TEXT("hostile"), SPO_TEXT("1.0"), entries,
#ifdef NO_ENTRIES
    0,
#else
    1,
#endif
};

#ifndef NO_SYMBOL
const spo_plugin_table *spo_plugin(void) {
    (void)entries;
#ifdef NULL_TABLE
    return NULL;
#else
    return &table;
#endif
}
#endif
