/* A loss for spo: squared hinge on the margin, max(0, 1 - beta m)^2, m the difference of the log-ratios. */

#include "spo.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    double beta;
} loss;

static int32_t fail(const spo_error *error, int32_t status, const char *message) {
    const spo_text none = {NULL, 0}, words = {message, strlen(message)};
    error->report(error->context, none, words, none);
    return status;
}

/* The number under a key of the configuration. The runtime holds the configuration against the schema below:
 * unknown keys, wrong types and values out of range are refused without a line of code here. */
static double number(spo_text config, const char *key, double otherwise) {
    char *text = malloc(config.length + 1);
    if (!text) return otherwise;
    memcpy(text, config.bytes, config.length);
    text[config.length] = 0;
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *at = strstr(text, quoted);
    double value = at ? strtod(at + strlen(quoted), NULL) : otherwise;
    free(text);
    return value;
}

static int32_t create(const void *context, spo_text config, void **out, const spo_error *error) {
    (void)context;
    loss *self = malloc(sizeof *self);
    if (!self) return fail(error, SPO_ENGINE, "out of memory");
    self->beta = number(config, "beta", 0.1);
    *out = self;
    return SPO_OK;
}

static void destroy(void *self) {
    free(self);
}

static int32_t requirements(void *self, spo_requirements *out, const spo_error *error) {
    (void)self;
    (void)error;
    out->data = SPO_PAIRS;
    out->reference = 1;
    return SPO_OK;
}

static double sum(spo_ragged ragged, size_t row) {
    double total = 0;
    for (size_t i = ragged.offsets[row]; i < ragged.offsets[row + 1]; i++) total += ragged.values[i];
    return total;
}

/* d(batch loss)/d(sequence log-prob), to each of its tokens. */
static void spread(spo_ragged shape, size_t row, double gradient, double *out) {
    for (size_t i = shape.offsets[row]; i < shape.offsets[row + 1]; i++) out[i] = gradient;
}

static int32_t evaluate(void *self, const spo_batch *batch, spo_evaluation *out, const spo_error *error) {
    const double beta = ((const loss *)self)->beta;
    const spo_side *w = &batch->chosen, *l = &batch->rejected;
    if (batch->layout != SPO_PAIRS || !w->reference.offsets || !l->reference.offsets)
        return fail(error, SPO_BATCH, "this objective needs pairs with reference log-probs");
    for (size_t i = 0; i < w->policy.rows; i++) {
        double ratio_w = sum(w->policy, i) - sum(w->reference, i);
        double ratio_l = sum(l->policy, i) - sum(l->reference, i);
        double slack = 1 - beta * (ratio_w - ratio_l);
        if (slack < 0) slack = 0;
        double gradient = -2 * beta * slack / (double)batch->whole_rows;
        out->losses[i] = slack * slack;
        spread(w->policy, i, gradient, out->grad_chosen);
        spread(l->policy, i, -gradient, out->grad_rejected);
        out->rewards_chosen[i] = beta * ratio_w;
        out->rewards_rejected[i] = beta * ratio_l;
    }
    out->has_rewards = 1;
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
    .name = SPO_TEXT("@NAME@"),
    .summary = SPO_TEXT("squared hinge on the margin of log-ratios"),
    .source = SPO_TEXT("replace me: paper and equation"),
    .schema = SPO_TEXT("{\"type\": \"object\", \"additionalProperties\": false,"
                       " \"description\": \"Squared hinge on the margin: `max(0, 1 - beta m)^2`.\","
                       " \"properties\": {\"beta\": {\"type\": \"number\", \"exclusiveMinimum\": 0, \"default\": 0.1,"
                       " \"description\": \"Inverse temperature, per nat.\"}}}"),
    .functions = &functions,
};

static const spo_entry *const entries[] = {&entry};

static const spo_plugin_table table = {
    .size = sizeof(spo_plugin_table),
    .abi_version = SPO_ABI_VERSION,
    .name = SPO_TEXT("@NAME@"),
    .version = SPO_TEXT("0.1.0"),
    .entries = entries,
    .entry_count = 1,
};

const spo_plugin_table *spo_plugin(void) {
    return &table;
}
