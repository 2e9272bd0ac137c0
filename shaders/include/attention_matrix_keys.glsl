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
STORE_EIGHT(d_qkv)

shared float column_lse[QUERIES];
shared float column_delta[QUERIES];

void load_columns(uint first_query) {
    for (uint n = gl_LocalInvocationIndex; n < QUERIES; n += INVOCATIONS) {
        uint query = first_query + n;
        bool there = query < push.context;
        // Past the end, a probability is 2^-infinity.
        column_lse[n] = there ? lse[row_at(query)] : -LOWEST;
        column_delta[n] = there ? delta[row_at(query)] : 0.0;
    }
}

uvec4 fetch_eight(bool second, uint position, uint channel) {
    return second ? load_d_heads(heads_at(position), channel) : load_qkv(QUERY_AT(position), channel);
}

// A tile of the block's columns.
#define WORK_ON_TILE(q) \
    uint query = first_query + q * SIDE; \
    if (NEEDED(query + SIDE - 1 >= first_key)) { \
        SUM_MATRIX s; \
        MULTIPLY_TRANSPOSED(s, keys, q * SIDE) \
        SUM_MATRIX d_p; \
        MULTIPLY_TRANSPOSED(d_p, values, QUERIES + q * SIDE) \
        SUM_MATRIX p, lse_, delta_, factors; \
        coopMatLoad(lse_, column_lse, q * SIDE, 0, ROW_MAJOR); \
        coopMatLoad(delta_, column_delta, q * SIDE, 0, ROW_MAJOR); \
        if (DROPOUT != 0) factors = dropout_tile(step, query, first_key, COLUMN_MAJOR, tile); \
        [[unroll]] for (uint i = 0; i < s.length(); ++i) s[i] = exp2(s[i] * to_base_2 - lse_[i]); \
        if (first_key + SIDE - 1 > query) { \
            SUM_MATRIX beyond = columns_less_rows(); \
            float diagonal = float(first_key) - float(query); \
            [[unroll]] for (uint i = 0; i < s.length(); ++i) s[i] = beyond[i] < diagonal ? 0.0 : s[i]; \
        } \
        [[unroll]] for (uint i = 0; i < s.length(); ++i) { \
            float factor = DROPOUT != 0 ? factors[i] : 1.0; \
            p[i] = s[i] * factor; \
            s[i] = bounded(s[i] * (d_p[i] * factor - delta_[i]) * push.score_scale); \
        } \
        ADD_WEIGHTED(d_v, to_left(p, tile), QUERIES + q * SIDE) \
        ADD_WEIGHTED(d_k, to_left(s, tile), q * SIDE) \
    }

void main() {
    uint block = block_index * KEYS;
    uvec2 step = DROPOUT != 0 ? uvec2(step_number[0], step_number[1]) : uvec2(0);
    float to_base_2 = push.scale * LOG2_OF_E;
    write_numbers();

    // Once, if there are as many subgroups as tiles of rows.
    for (uint pass = 0; pass < ROW_TILES; pass += gl_NumSubgroups) {
        uint tile = min(pass + gl_SubgroupID, ROW_TILES);
        uint first_key = block + tile * SIDE;
        bool works = tile < ROW_TILES && first_key < push.context;
        LEFT_MATRIX keys[DEPTH], values[DEPTH];
        barrier();
        STAGE(0, KEYS, block, load_qkv, KEY_AT)
        barrier();
        LOAD_LEFT(keys, min(tile, ROW_TILES - 1) * SIDE)
        barrier();
        STAGE(0, KEYS, block, load_qkv, VALUE_AT)
        barrier();
        LOAD_LEFT(values, min(tile, ROW_TILES - 1) * SIDE)
        SUM_MATRIX d_k[DEPTH], d_v[DEPTH];
        [[unroll]] for (uint c = 0; c < DEPTH; ++c) {
            d_k[c] = SUM_MATRIX(0.0);
            d_v[c] = SUM_MATRIX(0.0);
        }

        if (PREFETCH != 0) fetch_columns(block / QUERIES * QUERIES);
        for (uint first_query = block / QUERIES * QUERIES; first_query < push.context; first_query += QUERIES) {
            barrier();
            if (PREFETCH == 0) fetch_columns(first_query);
            store_columns(first_query);
            load_columns(first_query);
            barrier();
            if (PREFETCH != 0) fetch_columns(first_query + QUERIES);
            if (NEEDED(works)) {
                if (UNROLLED != 0) {
                    [[unroll]] for (uint q = 0; q < COLUMN_TILES; ++q) {
                        WORK_ON_TILE(q)
                    }
                } else {
                    [[dont_unroll]] for (uint q = 0; q < COLUMN_TILES; ++q) {
                        WORK_ON_TILE(q)
                    }
                }
            }
        }

        [[unroll]] for (uint c = 0; c < DEPTH; ++c) {
            d_k[c] = d_k[c] * (push.scale / push.score_scale * unscaled());
            d_v[c] = d_v[c] * unscaled();
        }
        STORE_ROWS(d_qkv, KEY_AT, d_k, first_key, tile)
        STORE_ROWS(d_qkv, VALUE_AT, d_v, first_key, tile)
    }
}
