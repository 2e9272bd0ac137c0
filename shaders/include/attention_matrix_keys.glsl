// Causal attention on matrix units, backward, the gradients of keys and values: a workgroup computes one block
// of keys, going over the blocks of queries from the diagonal on. Scores are transposed here: a row for each
// key, a column for each query.
#define ROW_COUNT KEYS
#define COLUMN_COUNT QUERIES
#include "attention_matrix.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Qkv { float qkv[]; };            // [B,T,3C]
layout(std430, set = 0, binding = 1) readonly buffer DHeads { float d_heads[]; };     // [B,T,C]
layout(std430, set = 0, binding = 2) readonly buffer Lse { float lse[]; };            // [B,H,T]
layout(std430, set = 0, binding = 3) readonly buffer Delta { float delta[]; };        // [B,H,T]
layout(std430, set = 0, binding = 4) readonly buffer Step { uint step_number[]; };    // [2], as in dropout.comp
layout(std430, set = 0, binding = 5) writeonly buffer DQkv { float d_qkv[]; };        // [B,T,3C]: keys and values
layout(std430, set = 0, binding = 0) readonly buffer QkvQuads { vec4 qkv_vec4[]; };
layout(std430, set = 0, binding = 1) readonly buffer DHeadsQuads { vec4 d_heads_vec4[]; };
layout(std430, set = 0, binding = 5) writeonly buffer DQkvQuads { vec4 d_qkv_vec4[]; };
layout(std430, set = 0, binding = 0) readonly buffer QkvEights { uvec4 qkv_uvec4[]; };
layout(std430, set = 0, binding = 1) readonly buffer DHeadsEights { uvec4 d_heads_uvec4[]; };
layout(std430, set = 0, binding = 5) writeonly buffer DQkvEights { uvec4 d_qkv_uvec4[]; };

LOAD_EIGHT(qkv)
LOAD_EIGHT_OF_GRADIENT(d_heads)

// What the sums of a column begin with: minus its log-sum-exp, in units of scores, and minus delta.
shared float column_lse[QUERIES];
shared float column_delta[QUERIES];

void load_columns(uint first_query, float from_base_2) {
    for (uint n = gl_LocalInvocationIndex; n < QUERIES; n += INVOCATIONS) {
        uint query = first_query + n;
        bool there = query < push.context;
        // Past the end, a probability is 2^-infinity.
        column_lse[n] = there ? -lse[row_at(query)] * from_base_2 : LOWEST;
        column_delta[n] = there ? -delta[row_at(query)] : 0.0;
    }
}

uvec4 fetch_eight(bool second, uint position, uint channel) {
    return second ? load_d_heads(heads_at(position), channel) : load_qkv(QUERY_AT(position), channel);
}

// The block's columns, AT_ONCE tiles at a time. `masked`: some may be past the diagonal.
#define WORK_ON_BLOCK(masked)                                                                              \
    [[dont_unroll]] for (uint q = 0; q < COLUMN_TILES; q += AT_ONCE) {                                     \
        uint query = first_query + q * SIDE;                                                               \
        if (!(masked) || NEEDED(query + AT_ONCE * SIDE > first_key)) {                                     \
            SUM_MATRIX s[OWN * AT_ONCE], d_p[OWN * AT_ONCE];                                               \
            [[unroll]] for (uint n = 0; n < OWN * AT_ONCE; ++n) {                                          \
                uint column = (q + n % AT_ONCE) * SIDE;                                                    \
                coopMatLoad(s[n], column_lse, column, 0, ROW_MAJOR);                                       \
                d_p[n] = SUM_MATRIX(0.0);                                                                  \
                if (DROPOUT == 0) coopMatLoad(d_p[n], column_delta, column, 0, ROW_MAJOR);                 \
            }                                                                                              \
            ADD_PRODUCTS(s, keys, q * SIDE)                                                                \
            ADD_PRODUCTS(d_p, values, QUERIES + q * SIDE)                                                  \
            [[unroll]] for (uint n = 0; n < OWN * AT_ONCE; ++n) {                                          \
                [[unroll]] for (uint i = 0; i < s[n].length(); ++i) s[n][i] = exp2(s[n][i] * to_base_2);   \
                if (masked) {                                                                              \
                    SUM_MATRIX beyond = columns_less_rows();                                               \
                    float diagonal = float(first_key + n / AT_ONCE * SIDE) - float(query + n % AT_ONCE * SIDE); \
                    [[unroll]] for (uint i = 0; i < s[n].length(); ++i) {                                  \
                        s[n][i] = beyond[i] < diagonal ? 0.0 : s[n][i];                                    \
                    }                                                                                      \
                }                                                                                          \
            }                                                                                              \
            [[unroll]] for (uint n = 0; n < AT_ONCE; ++n) {                                                \
                LEFT_MATRIX left[OWN];                                                                     \
                [[unroll]] for (uint r = 0; r < OWN; ++r) {                                                \
                    const uint m = r * AT_ONCE + n;                                                        \
                    SUM_MATRIX p = s[m];                                                                   \
                    if (DROPOUT != 0) {                                                                    \
                        SUM_MATRIX minus_delta, factors;                                                   \
                        coopMatLoad(minus_delta, column_delta, (q + n) * SIDE, 0, ROW_MAJOR);              \
                        factors = dropout_tile(step, query + n * SIDE, first_key + r * SIDE, COLUMN_MAJOR, unit); \
                        p = p * factors;                                                                   \
                        d_p[m] = d_p[m] * factors + minus_delta;                                           \
                    }                                                                                      \
                    left[r] = to_left(p, unit);                                                            \
                }                                                                                          \
                ADD_WEIGHTED(d_v, left, QUERIES + (q + n) * SIDE)                                          \
                [[unroll]] for (uint r = 0; r < OWN; ++r) {                                                \
                    const uint m = r * AT_ONCE + n;                                                        \
                    [[unroll]] for (uint i = 0; i < s[m].length(); ++i) {                                  \
                        s[m][i] = SCALED_SCORE(s[m][i] * d_p[m][i]);                                       \
                    }                                                                                      \
                    left[r] = to_left(s[m], unit);                                                         \
                }                                                                                          \
                ADD_WEIGHTED(d_k, left, (q + n) * SIDE)                                                    \
            }                                                                                              \
        }                                                                                                  \
    }

void main() {
    uint block = block_index * KEYS;
    uvec2 step = DROPOUT != 0 ? uvec2(step_number[0], step_number[1]) : uvec2(0);
    float to_base_2 = push.scale * LOG2_OF_E;
    float from_base_2 = 1.0 / to_base_2;
    write_numbers();

    // Once, if there are as many subgroups as units.
    for (uint pass = 0; pass < UNITS; pass += gl_NumSubgroups) {
        uint unit = min(pass + gl_SubgroupID, UNITS);
        uint first_key = block + unit * OWN_ROWS;
        bool works = unit < UNITS && first_key < push.context;
        uint start = block / QUERIES * QUERIES;
        if (PREFETCH != 0) fetch_columns(start);
        LEFT_MATRIX keys[OWN * DEPTH], values[OWN * DEPTH];
        LOAD_ROWS(keys, load_qkv, KEY_AT, first_key, unit)
        LOAD_ROWS(values, load_qkv, VALUE_AT, first_key, unit)
        SUM_MATRIX d_k[OWN * DEPTH], d_v[OWN * DEPTH];
        [[unroll]] for (uint n = 0; n < OWN * DEPTH; ++n) {
            d_k[n] = SUM_MATRIX(0.0);
            d_v[n] = SUM_MATRIX(0.0);
        }

        for (uint first_query = start; first_query < push.context; first_query += QUERIES) {
            barrier();
            if (PREFETCH == 0) fetch_columns(first_query);
            store_columns(first_query);
            load_columns(first_query, from_base_2);
            barrier();
            if (PREFETCH != 0) fetch_columns(first_query + QUERIES);
            if (NEEDED(works)) {
                if (SCRATCH_APART || first_query + 1 < first_key + OWN_ROWS) {
                    WORK_ON_BLOCK(true)
                } else {
                    WORK_ON_BLOCK(false)
                }
            }
        }

        barrier();
        float of_scores = push.scale / push.score_scale * unscaled();
        [[unroll]] for (uint n = 0; n < OWN * DEPTH; ++n) {
            d_k[n] = d_k[n] * of_scores;
            d_v[n] = d_v[n] * unscaled();
        }
        if (NEEDED(unit < UNITS)) {
            STORE_ROWS(d_qkv, KEY_AT, d_k, first_key, unit)
            STORE_ROWS(d_qkv, VALUE_AT, d_v, first_key, unit)
        }
    }
}
