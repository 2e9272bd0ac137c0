// Causal attention on matrix units, forward: a workgroup computes one block of queries, going over the blocks
// of keys up to the diagonal with the softmax of what it has seen so far (online softmax).
#define ROW_COUNT QUERIES
#define COLUMN_COUNT KEYS
#include "attention_matrix.glsl"
#include "exact.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Qkv { float qkv[]; };            // [B,T,3C]
layout(std430, set = 0, binding = 1) readonly buffer Step { uint step_number[]; };    // [2], as in dropout.comp
layout(std430, set = 0, binding = 2) writeonly buffer Heads { float heads[]; };       // [B,T,C]
layout(std430, set = 0, binding = 3) writeonly buffer Lse { float lse[]; };           // [B,H,T]
layout(std430, set = 0, binding = 0) readonly buffer QkvQuads { vec4 qkv_vec4[]; };
layout(std430, set = 0, binding = 2) writeonly buffer HeadsQuads { vec4 heads_vec4[]; };
layout(std430, set = 0, binding = 0) readonly buffer QkvEights { uvec4 qkv_uvec4[]; };
layout(std430, set = 0, binding = 2) writeonly buffer HeadsEights { uvec4 heads_uvec4[]; };

LOAD_EIGHT(qkv)

uvec4 fetch_eight(bool second, uint position, uint channel) {
    return load_qkv(second ? VALUE_AT(position) : KEY_AT(position), channel);
}

// Scores of which an exponential is taken are at most so far above what counts as the largest, in powers of two.
const float SLACK = 8.0;

// The block's columns, AT_ONCE tiles at a time. `masked`: some may be past the diagonal.
#define WORK_ON_BLOCK(masked)                                                                              \
    [[dont_unroll]] for (uint k = 0; k < COLUMN_TILES; k += AT_ONCE) {                                     \
        uint key = first_key + k * SIDE;                                                                   \
        if (!(masked) || NEEDED(key < first_query + OWN_ROWS)) {                                           \
            SUM_MATRIX s[OWN * AT_ONCE];                                                                   \
            [[unroll]] for (uint n = 0; n < OWN * AT_ONCE; ++n) s[n] = SUM_MATRIX(0.0);                    \
            ADD_PRODUCTS(s, queries, k * SIDE)                                                             \
            float highest = LOWEST;                                                                        \
            [[unroll]] for (uint n = 0; n < OWN * AT_ONCE; ++n) {                                          \
                [[unroll]] for (uint i = 0; i < s[n].length(); ++i) {                                      \
                    s[n][i] = s[n][i] * to_base_2 - largest[n / AT_ONCE][i];                               \
                }                                                                                          \
                if (masked) {                                                                              \
                    SUM_MATRIX beyond = columns_less_rows();                                               \
                    float diagonal = float(first_query + n / AT_ONCE * SIDE) - float(key + n % AT_ONCE * SIDE); \
                    [[unroll]] for (uint i = 0; i < s[n].length(); ++i) {                                  \
                        s[n][i] = beyond[i] > diagonal ? LOWEST : s[n][i];                                 \
                    }                                                                                      \
                }                                                                                          \
                [[unroll]] for (uint i = 0; i < s[n].length(); ++i) highest = max(highest, s[n][i]);       \
            }                                                                                              \
            if (NEEDED(key == 0 || subgroupAny(highest > SLACK))) {                                        \
                [[unroll]] for (uint r = 0; r < OWN; ++r) {                                                \
                    SUM_MATRIX above = s[r * AT_ONCE];                                                     \
                    [[unroll]] for (uint n = 1; n < AT_ONCE; ++n) {                                        \
                        [[unroll]] for (uint i = 0; i < above.length(); ++i) {                             \
                            above[i] = max(above[i], s[r * AT_ONCE + n][i]);                               \
                        }                                                                                  \
                    }                                                                                      \
                    above = largest_of_rows(above, unit);                                                  \
                    SUM_MATRIX shrink;                                                                     \
                    [[unroll]] for (uint i = 0; i < above.length(); ++i) {                                 \
                        above[i] = key == 0 ? above[i] : max(above[i], 0.0);                               \
                        shrink[i] = exp2(-max(above[i], 0.0));                                             \
                    }                                                                                      \
                    largest[r] = largest[r] + above;                                                       \
                    total[r] = total[r] * shrink;                                                          \
                    [[unroll]] for (uint c = 0; c < DEPTH; ++c) {                                          \
                        output_[r * DEPTH + c] = output_[r * DEPTH + c] * shrink;                          \
                    }                                                                                      \
                    [[unroll]] for (uint n = 0; n < AT_ONCE; ++n) s[r * AT_ONCE + n] = s[r * AT_ONCE + n] - above; \
                }                                                                                          \
            }                                                                                              \
            [[unroll]] for (uint n = 0; n < AT_ONCE; ++n) {                                                \
                LEFT_MATRIX left[OWN];                                                                     \
                [[unroll]] for (uint r = 0; r < OWN; ++r) {                                                \
                    SUM_MATRIX p = s[r * AT_ONCE + n];                                                     \
                    [[unroll]] for (uint i = 0; i < p.length(); ++i) p[i] = exp2(p[i]);                    \
                    left[r] = to_left(p, unit);                                                            \
                    total[r] = coopMatMulAdd(left[r], ones, total[r]);                                     \
                    if (DROPOUT != 0) {                                                                    \
                        p = p * dropout_tile(step, first_query + r * SIDE, key + n * SIDE, ROW_MAJOR, unit); \
                        left[r] = to_left(p, unit);                                                        \
                    }                                                                                      \
                }                                                                                          \
                ADD_WEIGHTED(output_, left, KEYS + (k + n) * SIDE)                                         \
            }                                                                                              \
        }                                                                                                  \
    }

void main() {
    // The longest rows first: they take longest.
    uint block = (blocks - 1 - block_index) * QUERIES;
    uvec2 step = DROPOUT != 0 ? uvec2(step_number[0], step_number[1]) : uvec2(0);
    float to_base_2 = push.scale * LOG2_OF_E;
    RIGHT_MATRIX ones = RIGHT_MATRIX(FACTOR(1.0));
    write_numbers();

    // Once, if there are as many subgroups as units.
    for (uint pass = 0; pass < UNITS; pass += gl_NumSubgroups) {
        uint unit = min(pass + gl_SubgroupID, UNITS);
        uint first_query = block + unit * OWN_ROWS;
        bool works = unit < UNITS && first_query < push.context;
        if (PREFETCH != 0) fetch_columns(0);
        LEFT_MATRIX queries[OWN * DEPTH];
        LOAD_ROWS(queries, load_qkv, QUERY_AT, first_query, unit)
        SUM_MATRIX output_[OWN * DEPTH];
        [[unroll]] for (uint n = 0; n < OWN * DEPTH; ++n) output_[n] = SUM_MATRIX(0.0);
        SUM_MATRIX largest[OWN], total[OWN];
        [[unroll]] for (uint r = 0; r < OWN; ++r) {
            largest[r] = SUM_MATRIX(0.0);
            total[r] = SUM_MATRIX(0.0);
        }

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
        if (NEEDED(unit < UNITS)) {
            [[unroll]] for (uint r = 0; r < OWN; ++r) {
                SUM_MATRIX inv_total, lse_;
                [[unroll]] for (uint i = 0; i < inv_total.length(); ++i) {
                    inv_total[i] = 1.0 / total[r][i];
                    lse_[i] = largest[r][i] + log_exact(total[r][i]) * LOG2_OF_E;
                }
                [[unroll]] for (uint c = 0; c < DEPTH; ++c) {
                    output_[r * DEPTH + c] = output_[r * DEPTH + c] * inv_total;
                }
                store_sums(lse_, unit);
                for (uint row = gl_SubgroupInvocationID; row < SIDE; row += gl_SubgroupSize) {
                    uint query = first_query + r * SIDE + row;
                    if (unit < UNITS && query < push.context) lse[row_at(query)] = stored_sums(unit, row, 0).x;
                }
            }
            STORE_ROWS(heads, heads_at, output_, first_query, unit)
        }
    }
}
