/* FocalPO, a loss that spo-run loads at run time: -p^gamma log p with p = sigmoid(beta m), m the difference of the
 * log-ratios. DPO spends its gradient on the pairs it gets wrong; the factor p^gamma turns it to those it gets right. */

#include "spo.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    double beta;
    double gamma;
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
    self->gamma = number(config, "gamma", 0.05);
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

/* log sigmoid(z), where the textbook form overflows too. */
static double log_sigmoid(double z) {
    return z < 0 ? z - log1p(exp(z)) : -log1p(exp(-z));
}

static int32_t evaluate(void *self, const spo_batch *batch, spo_evaluation *out, const spo_error *error) {
    const double beta = ((const loss *)self)->beta, gamma = ((const loss *)self)->gamma;
    const spo_side *w = &batch->chosen, *l = &batch->rejected;
    if (batch->layout != SPO_PAIRS || !w->reference.offsets || !l->reference.offsets)
        return fail(error, SPO_BATCH, "this objective needs pairs with reference log-probs");
    for (size_t i = 0; i < w->policy.rows; i++) {
        double ratio_w = sum(w->policy, i) - sum(w->reference, i);
        double ratio_l = sum(l->policy, i) - sum(l->reference, i);
        double z = beta * (ratio_w - ratio_l);
        double log_p = log_sigmoid(z), focus = exp(gamma * log_p), log_rest = log_sigmoid(-z);
        double gradient = -beta * exp(log_rest) * focus * (1 + gamma * log_p) / (double)batch->whole_rows;
        out->losses[i] = -focus * log_p;
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
    .name = SPO_TEXT("focal-po"),
    .summary = SPO_TEXT("DPO that attends to the pairs it ranks right"),
    .source = SPO_TEXT("Liu et al. 2025, FocalPO"),
    .schema = SPO_TEXT(
        "{\"type\": \"object\", \"additionalProperties\": false,"
        " \"description\": \"`-p^gamma log p`, `p = sigmoid(beta m)`: DPO with a factor that turns it to the pairs"
        " it ranks right.\","
        " \"properties\": {"
        "\"beta\": {\"type\": \"number\", \"exclusiveMinimum\": 0, \"default\": 0.1,"
        " \"description\": \"Inverse temperature, per nat.\"},"
        "\"gamma\": {\"type\": \"number\", \"minimum\": 0, \"default\": 0.05,"
        " \"description\": \"How much more the pairs count that are ranked right; 0 is DPO.\"}}}"),
    .functions = &functions,
};

static const spo_entry *const entries[] = {&entry};

static const spo_plugin_table table = {
    .size = sizeof(spo_plugin_table),
    .abi_version = SPO_ABI_VERSION,
    .name = SPO_TEXT("focal-po"),
    .version = SPO_TEXT("0.1.0"),
    .entries = entries,
    .entry_count = 1,
};

const spo_plugin_table *spo_plugin(void) {
    return &table;
}
