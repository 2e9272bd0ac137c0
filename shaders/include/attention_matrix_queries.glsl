// Causal attention on matrix units, backward, the queries' gradient: a workgroup computes one block of
// queries, going over the blocks of keys up to the diagonal. It also writes delta, each row's sum of d_heads *
// heads, for the keys' kernel after it.
#define ROW_COUNT QUERIES
#define COLUMN_COUNT KEYS
#include "attention_matrix.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Qkv { float qkv[]; };            // [B,T,3C]
layout(std430, set = 0, binding = 1) readonly buffer Heads { float heads[]; };        // [B,T,C]
layout(std430, set = 0, binding = 2) readonly buffer DHeads { float d_heads[]; };     // [B,T,C]
layout(std430, set = 0, binding = 3) readonly buffer Lse { float lse[]; };            // [B,H,T]
layout(std430, set = 0, binding = 4) readonly buffer Step { uint step_number[]; };    // [2], as in dropout.comp
layout(std430, set = 0, binding = 5) writeonly buffer Delta { float delta[]; };       // [B,H,T]
layout(std430, set = 0, binding = 6) writeonly buffer DQkv { float d_qkv[]; };        // [B,T,3C]: the queries' part
layout(std430, set = 0, binding = 0) readonly buffer QkvQuads { vec4 qkv_vec4[]; };
layout(std430, set = 0, binding = 1) readonly buffer HeadsQuads { vec4 heads_vec4[]; };
layout(std430, set = 0, binding = 2) readonly buffer DHeadsQuads { vec4 d_heads_vec4[]; };
layout(std430, set = 0, binding = 6) writeonly buffer DQkvQuads { vec4 d_qkv_vec4[]; };
layout(std430, set = 0, binding = 0) readonly buffer QkvEights { uvec4 qkv_uvec4[]; };
layout(std430, set = 0, binding = 1) readonly buffer HeadsEights { uvec4 heads_uvec4[]; };
layout(std430, set = 0, binding = 2) readonly buffer DHeadsEights { uvec4 d_heads_uvec4[]; };
layout(std430, set = 0, binding = 6) writeonly buffer DQkvEights { uvec4 d_qkv_uvec4[]; };

LOAD_EIGHT(qkv)
LOAD_EIGHT(heads)
LOAD_EIGHT_OF_GRADIENT(d_heads)

// Of a unit's rows, what each has in row_values: minus delta, and the log-sum-exp.
void find_delta(uint first_query, uint unit) {
    for (uint row = gl_SubgroupInvocationID; row < OWN_ROWS; row += gl_SubgroupSize) {
        uint query = first_query + row;
        float sum = 0.0;
        if (query < push.context) {
            [[unroll]] for (uint channel = 0; channel < CHANNELS; channel += 8) {
                uvec4 heads_eight = load_heads(heads_at(query), channel);
                uvec4 d_heads_eight = load_d_heads(heads_at(query), channel);
                [[unroll]] for (uint i = 0; i < 4; ++i) {
                    sum += dot(unpack_two(heads_eight[i]), unpack_two(d_heads_eight[i]));
                }
            }
            if (unit < UNITS) delta[row_at(query)] = sum;
        }
        row_values[unit * OWN_ROWS + row] = -sum;
    }
    subgroupBarrier();
}

void find_lse(uint first_query, uint unit) {
    subgroupBarrier();
    for (uint row = gl_SubgroupInvocationID; row < OWN_ROWS; row += gl_SubgroupSize) {
        uint query = first_query + row;
        row_values[unit * OWN_ROWS + row] = query < push.context ? lse[row_at(query)] : 0.0;
    }
    subgroupBarrier();
}

uvec4 fetch_eight(bool second, uint position, uint channel) {
    return load_qkv(second ? VALUE_AT(position) : KEY_AT(position), channel);
}

// The block's columns, AT_ONCE tiles at a time. `masked`: some may be past the diagonal.
#define WORK_ON_BLOCK(masked)                                                                              \
    [[dont_unroll]] for (uint k = 0; k < COLUMN_TILES; k += AT_ONCE) {                                     \
        uint key = first_key + k * SIDE;                                                                   \
        if (!(masked) || NEEDED(key < first_query + OWN_ROWS)) {                                           \
            SUM_MATRIX s[OWN * AT_ONCE], d_p[OWN * AT_ONCE];                                               \
            [[unroll]] for (uint n = 0; n < OWN * AT_ONCE; ++n) {                                          \
                s[n] = SUM_MATRIX(0.0);                                                                    \
                d_p[n] = SUM_MATRIX(0.0);                                                                  \
                if (DROPOUT == 0) d_p[n] = minus_delta[n / AT_ONCE];                                       \
            }                                                                                              \
            ADD_PRODUCTS(s, queries, k * SIDE)                                                             \
            ADD_PRODUCTS(d_p, d_outputs, KEYS + k * SIDE)                                                  \
            [[unroll]] for (uint n = 0; n < OWN * AT_ONCE; ++n) {                                          \
                const uint r = n / AT_ONCE;                                                                \
                if (DROPOUT != 0) {                                                                        \
                    uint column = key + n % AT_ONCE * SIDE;                                                \
                    d_p[n] = d_p[n] * dropout_tile(step, first_query + r * SIDE, column, ROW_MAJOR, unit)  \
                        + minus_delta[r];                                                                  \
                }                                                                                          \
                [[unroll]] for (uint i = 0; i < s[n].length(); ++i) {                                      \
                    s[n][i] = exp2(s[n][i] * to_base_2 - row_lse[r][i]);                                   \
                }                                                                                          \
                if (masked) {                                                                              \
                    SUM_MATRIX beyond = columns_less_rows();                                               \
                    float diagonal = float(first_query + r * SIDE) - float(key + n % AT_ONCE * SIDE);      \
                    [[unroll]] for (uint i = 0; i < s[n].length(); ++i) {                                  \
                        s[n][i] = beyond[i] > diagonal ? 0.0 : s[n][i];                                    \
                    }                                                                                      \
                }                                                                                          \
                [[unroll]] for (uint i = 0; i < s[n].length(); ++i) s[n][i] = SCALED_SCORE(s[n][i] * d_p[n][i]); \
            }                                                                                              \
            [[unroll]] for (uint n = 0; n < AT_ONCE; ++n) {                                                \
                LEFT_MATRIX left[OWN];                                                                     \
                [[unroll]] for (uint r = 0; r < OWN; ++r) {                                                \
                    left[r] = to_left(s[r * AT_ONCE + n], unit);                                           \
                }                                                                                          \
                ADD_WEIGHTED(d_q, left, (k + n) * SIDE)                                                    \
            }                                                                                              \
        }                                                                                                  \
    }

void main() {
    // The longest rows first: they take longest.
    uint block = (blocks - 1 - block_index) * QUERIES;
    uvec2 step = DROPOUT != 0 ? uvec2(step_number[0], step_number[1]) : uvec2(0);
    float to_base_2 = push.scale * LOG2_OF_E;
    write_numbers();

    // Once, if there are as many subgroups as units.
    for (uint pass = 0; pass < UNITS; pass += gl_NumSubgroups) {
        uint unit = min(pass + gl_SubgroupID, UNITS);
        uint first_query = block + unit * OWN_ROWS;
        bool works = unit < UNITS && first_query < push.context;
        if (PREFETCH != 0) fetch_columns(0);
        LEFT_MATRIX queries[OWN * DEPTH], d_outputs[OWN * DEPTH];
        SUM_MATRIX row_lse[OWN], minus_delta[OWN];
        find_delta(first_query, unit);
        [[unroll]] for (uint r = 0; r < OWN; ++r) minus_delta[r] = spread_over_columns(unit, r);
        find_lse(first_query, unit);
        [[unroll]] for (uint r = 0; r < OWN; ++r) row_lse[r] = spread_over_columns(unit, r);
        LOAD_ROWS(queries, load_qkv, QUERY_AT, first_query, unit)
        LOAD_ROWS(d_outputs, load_d_heads, heads_at, first_query, unit)
        SUM_MATRIX d_q[OWN * DEPTH];
        [[unroll]] for (uint n = 0; n < OWN * DEPTH; ++n) d_q[n] = SUM_MATRIX(0.0);

        uint end = min(block + QUERIES, push.context);
        for (uint first_key = 0; first_key < end; first_key += KEYS) {
            barrier();
            if (PREFETCH == 0) fetch_columns(first_key);
            store_columns(first_key);
            barrier();
            if (PREFETCH != 0) fetch_columns(first_key + KEYS);
            if (NEEDED(works)) {
                if (SCRATCH_APART || first_key + KEYS > first_query + 1) {
                    WORK_ON_BLOCK(true)
                } else {
                    WORK_ON_BLOCK(false)
                }
            }
        }

        barrier();
        float of_scores = push.scale / push.score_scale * unscaled();
        [[unroll]] for (uint n = 0; n < OWN * DEPTH; ++n) d_q[n] = d_q[n] * of_scores;
        if (NEEDED(unit < UNITS)) {
            STORE_ROWS(d_qkv, QUERY_AT, d_q, first_query, unit)
        }
    }
}
