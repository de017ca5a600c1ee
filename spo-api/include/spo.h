/* spo.h: the border between spo-run and parts that are loaded at run time.
 *
 * docs/plugin-abi.md explains it; a plugin needs this header and nothing else.
 *
 * Rules
 *  - Who makes memory frees it. What you are given is lent for the time of the call. Results go into the
 *    caller's buffers, or through a callback of the caller, which copies.
 *  - Text is UTF-8 with a length and no terminating zero. Configurations are JSON.
 *  - A function that can fail returns a status and describes the failure to the error sink.
 *  - Nothing unwinds across the border: no C++ exception, no longjmp.
 *  - Tables stay where they are and as they are. Two threads never use one object at once, but an object
 *    may be used by one thread after another.
 *  - Tables and structs begin with their size and grow at their end only. Set `size` to sizeof of what you
 *    fill; do not read beyond the `size` of what you are given.
 *  - A library is never unloaded.
 */
#ifndef SPO_H
#define SPO_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SPO_ABI_VERSION 2

#if defined(_WIN32)
#define SPO_EXPORT __declspec(dllexport)
#else
#define SPO_EXPORT __attribute__((visibility("default")))
#endif

/* Borrowed UTF-8. A null pointer stands for none. */
typedef struct {
    const char *bytes;
    size_t length;
} spo_text;

/* A string literal as a spo_text. */
#define SPO_TEXT(literal) {(literal), sizeof(literal) - 1}

/* What a function returns. */
enum {
    SPO_OK = 0,
    SPO_CONFIG = 1,     /* the configuration; `key` says which */
    SPO_BATCH = 2,      /* the batch lacks something or is malformed */
    SPO_NON_FINITE = 3, /* a number stopped being finite */
    SPO_MODEL = 4,      /* a model folder cannot be used */
    SPO_ENGINE = 5,     /* the engine failed */
    SPO_IO = 6,         /* a file; `key` is its path */
    SPO_STOPPED = 7,    /* the run was asked to stop */
    SPO_PANIC = 8       /* the function ran into a mistake of its own */
};

/* Where a failing function describes the failure, once, before it returns. `key` and `suggestion` may be none. */
typedef struct {
    void *context;
    void (*report)(void *context, spo_text key, spo_text message, spo_text suggestion);
} spo_error;

/* Where a function writes a result whose size the caller cannot know; may be called often. */
typedef struct {
    void *context;
    void (*write)(void *context, const uint8_t *bytes, size_t length);
} spo_sink;

/* ---------------------------------------------------------------- objectives ---- */

enum { SPO_PAIRS = 0, SPO_UNPAIRED = 1, SPO_DEMONSTRATIONS = 2 };

/* Rows of different lengths: row i is values[offsets[i]] up to values[offsets[i + 1]]. There are rows + 1
 * offsets, rising from 0. `offsets` is null where there is nothing to show. */
typedef struct {
    const double *values;
    const size_t *offsets;
    size_t rows;
} spo_ragged;

/* The answers of one side. All three have the same shape. Nats. */
typedef struct {
    spo_ragged policy;    /* log p(token) under the policy */
    spo_ragged reference; /* the same under the reference, if asked for */
    spo_ragged collision; /* log sum_v p(v)^2 at each position, if asked for */
} spo_side;

/* A column of the data: one number per row, in the order of the losses. */
typedef struct {
    spo_text name;
    const double *values;
} spo_column;

typedef struct {
    uint32_t size;
    uint32_t layout;    /* SPO_PAIRS: row i of both sides answers one prompt; SPO_UNPAIRED: rows have no partner */
    spo_side chosen;    /* preferred or desirable answers */
    spo_side rejected;  /* the others; without rows for SPO_DEMONSTRATIONS */
    spo_side mismatched; /* prompts with the answers of others, if asked for */
    const double *gaps; /* pairs: score of the chosen minus that of the rejected, if asked for; else null */
    size_t whole_rows;  /* rows of the whole optimizer batch: means are over these, not over the part you see */
    size_t whole_chosen_tokens;
    const spo_column *columns; /* those that you asked for, in your order; there if you asked for any */
    size_t column_count;
} spo_batch;

/* Buffers of the batch's size, filled with zeros. Rows: chosen.policy.rows; for SPO_UNPAIRED the desirable
 * ones, then the undesirable. */
typedef struct {
    uint32_t size;
    uint32_t has_rewards;    /* set it to 1 if you wrote both arrays of rewards */
    double *losses;          /* per row, not reduced; the batch loss is their sum / whole_rows */
    double *grad_chosen;     /* d(batch loss)/d(policy log-prob), in the layout of chosen.policy.values */
    double *grad_rejected;
    double *rewards_chosen;  /* per answer */
    double *rewards_rejected;
    void *context;
    void (*metric)(void *context, spo_text name, double value); /* a further figure for metrics.jsonl */
} spo_evaluation;

/* What an objective needs beside the policy's log-probs; flags are 0 or 1. */
typedef struct {
    uint32_t size;
    uint32_t data; /* SPO_PAIRS, ... */
    uint32_t reference;
    uint32_t collision;
    uint32_t mismatched;
    uint32_t gaps;
    uint32_t whole_batch; /* rows depend on one another: never show a part of a batch */
    uint32_t least_rows;  /* refuse batches of fewer rows; write it if `size` covers it */
    void *context;
    /* Call it once for each column of the data that you need, `out->column(out->context, name, default_value)`. `default_value` points to
     * the number of rows without one; null: every row must have one. It is there if `size` covers it. */
    void (*column)(void *context, spo_text name, const double *default_value);
} spo_requirements;

typedef struct {
    uint32_t size;
    /* Makes an objective from its table in the recipe, as JSON, and stores it in *out. Refuse unknown keys
     * and values out of range with SPO_CONFIG and the key. `context` is that of the entry. */
    int32_t (*create)(const void *context, spo_text config, void **out, const spo_error *error);
    void (*destroy)(void *self);
    int32_t (*requirements)(void *self, spo_requirements *out, const spo_error *error); /* flags are 0 */
    int32_t (*evaluate)(void *self, const spo_batch *batch, spo_evaluation *out, const spo_error *error);
    /* Optional (null): a training step begins, after this many others. */
    void (*begin)(void *self, uint64_t steps_done);
    /* Optional, both or none: what must survive a resume. */
    void (*state)(void *self, const spo_sink *out);
    int32_t (*restore)(void *self, spo_text state, const spo_error *error);
    /* Optional: the losses of `batch` with everything that the gradient treats as a constant as it is for `at`, a
     * batch of the same shape. `spo-run plugin test` takes differences of it; training never calls it. Only `losses` is
     * read. The state moves as in `evaluate`, by `at`. */
    int32_t (*evaluate_held)(void *self, const spo_batch *at, const spo_batch *batch, spo_evaluation *out,
                             const spo_error *error);
} spo_objective;

/* ------------------------------------------------------------- vector spaces ---- */

/* Vectors of the size of the trainable parameters, wherever they live. Vector 0 are the parameters, vector 1
 * the gradient. `owner` is the session, the context of the problem, or the owner in a spo_space. The two vectors of
 * an operation may be one and the same. */
typedef struct {
    uint32_t size;
    size_t (*dimension)(void *owner);
    int32_t (*allocate)(void *owner, uint32_t *out, const spo_error *error); /* zeros */
    void (*release)(void *owner, uint32_t v);
    int32_t (*zero)(void *owner, uint32_t v, const spo_error *error);
    int32_t (*copy)(void *owner, uint32_t from, uint32_t to, const spo_error *error);
    int32_t (*scale)(void *owner, double a, uint32_t v, const spo_error *error);            /* v <- a v */
    int32_t (*axpy)(void *owner, double a, uint32_t x, uint32_t y, const spo_error *error); /* y <- y + a x */
    int32_t (*dot)(void *owner, uint32_t x, uint32_t y, double *out, const spo_error *error);
    /* Optional: element by element, v <- f(v) and y <- y op x. `a` is of SPO_ADD and SPO_DIVIDE. */
    int32_t (*map)(void *owner, uint32_t f, double a, uint32_t v, const spo_error *error);
    int32_t (*combine)(void *owner, uint32_t op, uint32_t x, uint32_t y, const spo_error *error);
    /* Optional: v <- a v, but for biases and norms, which weight decay usually spares. */
    int32_t (*decay)(void *owner, double a, uint32_t v, const spo_error *error);
} spo_vectors;

/* Of `map`: v + a, v / a, the square root, -1 or 0 or 1, the magnitude. */
enum { SPO_ADD = 1, SPO_DIVIDE = 2, SPO_SQUARE_ROOT = 3, SPO_SIGN = 4, SPO_ABSOLUTE = 5 };

/* Of `combine`: y * x, y / x, the greater. */
enum { SPO_MULTIPLY = 1, SPO_QUOTIENT = 2, SPO_MAXIMUM = 3 };

/* A space as it is lent. */
typedef struct {
    const spo_vectors *table;
    void *owner; /* first argument of its functions */
} spo_space;

/* ------------------------------------------------------------- bilevel steps ---- */

typedef struct {
    double upper; /* of F, the preference loss */
    double lower; /* of G, the SFT loss, nats per token */
} spo_losses;

/* The weights of a combined gradient: `fixed`, unless `by` is there to find them from the losses. */
typedef struct {
    spo_losses fixed;
    void *context;
    int32_t (*by)(void *context, spo_losses losses, spo_losses *weights, const spo_error *error);
} spo_weigh;

typedef struct {
    uint32_t size;
    spo_losses losses; /* NaN for a level you did not compute */
    void *context;
    void (*metric)(void *context, spo_text name, double value);
} spo_report;

/* The program's side: what a step works on. First argument of all functions is `context`. */
typedef struct {
    uint32_t size;
    void *context;
    const spo_vectors *vectors;
    /* Evaluates both levels and writes upper * dF + lower * dG into a vector. Vector 1 is then of no use,
     * unless it is that vector. */
    int32_t (*gradient)(void *context, const spo_weigh *weigh, uint32_t into, spo_losses *losses,
                        const spo_error *error);
    int32_t (*lower)(void *context, double *out, const spo_error *error);
    int32_t (*reference_lower)(void *context, double *out, const spo_error *error);
    int32_t (*next_lower)(void *context, const spo_error *error); /* draws another lower batch */
    int32_t (*descend)(void *context, double lr_factor, const spo_error *error); /* hands vector 1 to the optimizer */
    void (*progress)(void *context, uint64_t *step, uint64_t *total);
    /* Writes H v into a vector, H the Hessian of G on the current lower batch: exactly, not by differences. Neither
     * may be vector 0 or 1; vector 1 is then of no use. Fails where the backend has no such products: a step that asks
     * for it says so in its needs. */
    int32_t (*lower_hessian_vector)(void *context, uint32_t v, uint32_t into, const spo_error *error);
    /* Optional: null, or beyond `size`, in earlier versions. How steep F is where it prefers neither answer, as a multiple
     * of DPO's slope with beta = 0.1. */
    int32_t (*upper_slope)(void *context, double *out, const spo_error *error);
} spo_problem;

/* Flags are 0 or 1. */
typedef struct {
    uint32_t size;
    uint32_t lower;           /* it has a lower level */
    uint32_t reference_lower; /* it asks for reference_lower */
    uint32_t hessian;         /* it asks for lower_hessian_vector, which not every backend has */
} spo_needs;

typedef struct {
    uint32_t size;
    int32_t (*create)(const void *context, spo_text config, void **out, const spo_error *error);
    void (*destroy)(void *self);
    void (*needs)(void *self, spo_needs *out);                     /* *out holds zeros */
    void (*passes)(void *self, size_t *forward, size_t *backward); /* over one batch, both levels sharing it */
    int32_t (*step)(void *self, const spo_problem *problem, spo_report *report, const spo_error *error);
    void (*state)(void *self, const spo_sink *out); /* optional, with restore */
    int32_t (*restore)(void *self, spo_text state, const spo_error *error);
} spo_step;

/* ---------------------------------------------------------------- optimizers ---- */

typedef struct {
    uint32_t size;
    double lr;
    double gradient_scale; /* the gradient is multiplied by this first */
    uint64_t count;        /* number of this update, from 1 */
} spo_update;

/* An optimizer keeps nothing from one update to the next but vectors, which it is given. */
typedef struct {
    uint32_t size;
    int32_t (*create)(const void *context, spo_text config, void **out, const spo_error *error);
    void (*destroy)(void *self);
    size_t (*states)(void *self); /* how many such vectors; they hold zeros at first */
    /* Moves vector 0 once, along vector 1, which may be overwritten. `state`: `states` numbers of vectors. */
    int32_t (*step)(void *self, const spo_space *space, const uint32_t *state, const spo_update *update,
                    const spo_error *error);
    /* Optional: writes the rule by name and settled hyper-parameters, {"name": "adamw", "config": {...}}, for sessions
     * that have a kernel of their own for it; nothing if there is none. */
    void (*kernel)(void *self, const spo_sink *out);
    uint32_t (*needs_kernel)(void *self); /* optional: 1 if only such a kernel can run it */
} spo_optimizer;

/* ----------------------------------------------------------------- schedules ---- */

typedef struct {
    uint32_t size;
    int32_t (*create)(const void *context, spo_text config, void **out, const spo_error *error);
    void (*destroy)(void *self);
    /* The learning rate of the step after `step` others, as a share of its peak: after the warm-up, which is a straight
     * line from 0. All are steps; step >= warmup. */
    double (*factor)(void *self, uint64_t step, uint64_t warmup, uint64_t total);
} spo_schedule;

/* ------------------------------------------------------------------ backends ---- */

/* Prompts with the completions that share them. Prompt g is prompts[prompt_offsets[g]] up to
 * prompts[prompt_offsets[g + 1]]; its completions are numbered group_offsets[g] up to group_offsets[g + 1];
 * completion c is completions[completion_offsets[c]] up to completions[completion_offsets[c + 1]]. */
typedef struct {
    uint32_t size;
    size_t groups;
    const uint32_t *prompts;
    const size_t *prompt_offsets;
    const size_t *group_offsets;
    const uint32_t *completions;
    const size_t *completion_offsets;
} spo_tokens;

enum { SPO_ENTROPY = 1, SPO_COLLISION = 2, SPO_GREEDY = 4 };

/* One number per token of the completions, in their order. The last three are null unless asked for. */
typedef struct {
    uint32_t size;
    size_t length;
    const double *values; /* log p(token | everything before it), nats */
    const double *entropy;
    const double *collision;
    const double *greedy; /* 1 where the token was the most probable one, else 0 */
} spo_log_probs;

/* Call `show` once. `gradient`: room for one number per log-prob, which it fills; null in a pass without
 * backward. If it fails, stop and return its status. */
typedef struct {
    void *context;
    int32_t (*show)(void *context, const spo_log_probs *log_probs, double *gradient, const spo_error *error);
} spo_show;

typedef struct {
    uint32_t size;
    const spo_vectors *vectors; /* their owner is the session */
    void (*destroy)(void *session);
    void (*info)(void *session, const spo_sink *out); /* JSON, see docs/plugin-abi.md */
    int32_t (*log_probs)(void *session, const spo_tokens *batch, uint32_t statistics, const spo_show *show,
                         const spo_error *error);
    /* The same, and adds to vector 1 the gradient of sum_i gradient[i] * values[i]. */
    int32_t (*backward)(void *session, const spo_tokens *batch, uint32_t statistics, const spo_show *show,
                        const spo_error *error);
    /* `sampling` is JSON; writes a JSON array with an array of new token ids per prompt. */
    int32_t (*generate)(void *session, const spo_tokens *prompts, spo_text sampling, const spo_sink *out,
                        const spo_error *error);
    int32_t (*save)(void *session, spo_text folder, uint32_t what, const spo_error *error); /* 0 model, 1 adapter */
    int32_t (*save_state)(void *session, spo_text file, const spo_error *error);
    int32_t (*restore_state)(void *session, spo_text file, const spo_error *error);
    /* Optional. Shows log-probs as `backward` does, and adds to vector `into` the Hessian of
     * sum_i gradient[i] * values[i], the gradient held fixed, times vector `v`: exactly, not by differences.
     * derivatives[i] becomes the derivative of values[i] along v. Neither is vector 0 or 1; vector 1 may be
     * overwritten. */
    int32_t (*hessian_vector)(void *session, const spo_tokens *batch, const spo_show *show, uint32_t v, uint32_t into,
                              double *derivatives, const spo_error *error);
    /* Optional, both or none. Forgets the optimizer before, its state and its count, and takes on another: `kernel` is
     * JSON as of a spo_optimizer, or none. *taken becomes 1 if the session has a kernel for the rule and will run it:
     * `optimize` then moves the parameters, from vector 1. Fail if you know the rule, but not with these
     * hyper-parameters. */
    int32_t (*adopt_optimizer)(void *session, spo_text kernel, uint32_t *taken, const spo_error *error);
    int32_t (*optimize)(void *session, const spo_update *update, const spo_error *error);
    /* Optional. `backward` from a gradient of zero and `optimize` in one: each parameter is updated as soon as its gradient
     * is complete, which is then dropped. The same parameters, bit for bit. *norm becomes the norm of the gradient. */
    int32_t (*backward_and_optimize)(void *session, const spo_tokens *batch, uint32_t statistics, const spo_show *show,
                                     const spo_update *update, double *norm, const spo_error *error);
    /* Optional, both or neither. From now on, backward passes add the gradient of `weight` times the load-balancing loss of the
     * model's routers; 0 for none, as in a new session. The other tells that loss in the last backward pass, without its
     * weight, or 0 if there was none. */
    int32_t (*weigh_router_loss)(void *session, double weight, const spo_error *error);
    double (*router_loss)(void *session);
    /* Optional. From now on, adapters with dropout drop parts of their inputs in passes over batches, drawn from `seed`; nothing,
     * as in a new session, if `on` is 0. */
    int32_t (*drop_out)(void *session, uint32_t on, uint64_t seed, const spo_error *error);
} spo_session;

typedef struct {
    uint32_t size;
    const spo_session *session;
    int32_t (*create)(const void *context, spo_text config, void **out, const spo_error *error);
    void (*destroy)(void *self); /* its sessions live on */
    int32_t (*open)(void *self, spo_text spec, void **session, const spo_error *error); /* JSON */
} spo_backend;

/* --------------------------------------------------------- table of contents ---- */

enum {
    SPO_KIND_OBJECTIVE = 1,
    SPO_KIND_STEP = 2,
    SPO_KIND_BACKEND = 3,
    SPO_KIND_OPTIMIZER = 4,
    SPO_KIND_SCHEDULE = 5
};

typedef struct {
    uint32_t size;
    uint32_t kind;
    spo_text name;    /* lower-case letters, digits, `-`, `_` */
    spo_text summary; /* one line */
    spo_text source;  /* paper and equation, one line */
    spo_text schema;  /* JSON Schema of its table in a recipe; `description` is its documentation */
    const void *context; /* handed to `create` */
    const void *functions; /* a spo_objective, spo_step, ... */
    const spo_text *aliases; /* optional */
    size_t alias_count;
} spo_entry;

typedef struct {
    uint32_t size;
    uint32_t abi_version; /* SPO_ABI_VERSION */
    spo_text name;
    spo_text version;
    const spo_entry *const *entries;
    size_t entry_count;
} spo_plugin_table;

/* The one symbol of a plugin. */
SPO_EXPORT const spo_plugin_table *spo_plugin(void);

#ifdef __cplusplus
}
#endif

#endif
