/* The built-in `margin-dpo` in C, which reads a column of the data. With EARLIER it is `dpo`, built against the structs as
 * they were before there were columns. With LOWER it is `sft` whose rows count as much as their column `confidence` says. */

#include "spo.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifdef EARLIER
typedef struct {
    uint32_t size;
    uint32_t layout;
    spo_side chosen;
    spo_side rejected;
    spo_side mismatched;
    const double *gaps;
    size_t whole_rows;
    size_t whole_chosen_tokens;
} seen_batch;

typedef struct {
    uint32_t size;
    uint32_t data;
    uint32_t reference;
    uint32_t collision;
    uint32_t mismatched;
    uint32_t gaps;
    uint32_t whole_batch;
} seen_requirements;
#else
typedef spo_batch seen_batch;
typedef spo_requirements seen_requirements;
#endif

static int32_t create(const void *context, spo_text config, void **out, const spo_error *error) {
    (void)context, (void)config, (void)error;
    *out = calloc(1, 1);
    return SPO_OK;
}

static void destroy(void *self) {
    free(self);
}

static int32_t requirements(void *self, spo_requirements *given, const spo_error *error) {
    (void)self, (void)error;
    seen_requirements *out = (seen_requirements *)given;
#ifdef EARLIER
    /* All that it knows is overwritten, as some do. */
    memset(out, 0, sizeof *out);
#elif defined LOWER
    const spo_text confidence = SPO_TEXT("confidence");
    const double sure = 1;
    out->column(out->context, confidence, &sure);
    out->data = SPO_DEMONSTRATIONS;
    return SPO_OK;
#else
    const spo_text margin = SPO_TEXT("margin");
    out->column(out->context, margin, NULL);
#ifdef TWICE
    out->column(out->context, margin, NULL);
#endif
#endif
    out->data = SPO_PAIRS;
    out->reference = 1;
    return SPO_OK;
}

static double log_ratio(const spo_side *side, size_t row) {
    double total = 0;
    for (size_t i = side->policy.offsets[row]; i < side->policy.offsets[row + 1]; i++)
        total += side->policy.values[i] - side->reference.values[i];
    return total;
}

static int32_t evaluate(void *self, const spo_batch *given, spo_evaluation *out, const spo_error *error) {
    (void)self;
    const double beta = 0.1;
    const seen_batch *batch = (const seen_batch *)given;
    const spo_side *w = &batch->chosen, *l = &batch->rejected;
#ifdef LOWER
    (void)beta, (void)l, (void)error;
    for (size_t i = 0; i < w->policy.rows; i++) {
        const double share = batch->columns[0].values[i] / (double)batch->whole_chosen_tokens;
        for (size_t t = w->policy.offsets[i]; t < w->policy.offsets[i + 1]; t++) {
            out->losses[i] -= share * (double)batch->whole_rows * w->policy.values[t];
            out->grad_chosen[t] = -share;
        }
    }
    return SPO_OK;
#endif
    if (!w->reference.offsets || !l->reference.offsets) {
        const spo_text none = {NULL, 0}, words = SPO_TEXT("it needs reference log-probs");
        error->report(error->context, none, words, none);
        return SPO_BATCH;
    }
    for (size_t i = 0; i < w->policy.rows; i++) {
        double z = beta * (log_ratio(w, i) - log_ratio(l, i));
#ifndef EARLIER
        z -= batch->columns[0].values[i];
#endif
        /* -log sigmoid(z) and its derivative, where exp does not overflow. */
        double small = exp(-fabs(z)), gradient = -beta * (z < 0 ? 1 : small) / (1 + small) / (double)batch->whole_rows;
        out->losses[i] = log1p(small) + (z < 0 ? -z : 0);
        for (size_t t = w->policy.offsets[i]; t < w->policy.offsets[i + 1]; t++) out->grad_chosen[t] = gradient;
        for (size_t t = l->policy.offsets[i]; t < l->policy.offsets[i + 1]; t++) out->grad_rejected[t] = -gradient;
    }
    return SPO_OK;
}

static const spo_objective functions = {
    .size = sizeof(spo_objective),
    .create = create,
    .destroy = destroy,
    .requirements = requirements,
    .evaluate = evaluate,
};

static const spo_entry entry = {
    .size = sizeof(spo_entry),
    .kind = SPO_KIND_OBJECTIVE,
    .name = SPO_TEXT("margin-c"),
    .summary = SPO_TEXT("DPO with a margin, in C"),
    .source = SPO_TEXT("a test"),
    .schema = SPO_TEXT("{\"type\": \"object\", \"additionalProperties\": false, \"description\": \"`margin-dpo`\","
                       " \"properties\": {}}"),
    .functions = &functions,
};

static const spo_entry *const entries[] = {&entry};

static const spo_plugin_table table = {
    .size = sizeof(spo_plugin_table),
    .abi_version = SPO_ABI_VERSION,
    .name = SPO_TEXT("margin-c"),
    .version = SPO_TEXT("0.1.0"),
    .entries = entries,
    .entry_count = 1,
};

const spo_plugin_table *spo_plugin(void) {
    return &table;
}
