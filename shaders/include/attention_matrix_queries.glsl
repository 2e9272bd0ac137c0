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
STORE_EIGHT(d_qkv)

// Delta of a tile of rows, into row_values.
void find_delta(uint first_query, uint tile) {
    for (uint row = gl_SubgroupInvocationID; row < SIDE; row += gl_SubgroupSize) {
        uint query = first_query + row;
        float sum = 0.0;
        if (query < push.context) {
            for (uint channel = 0; channel < CHANNELS; channel += 8) {
                uvec4 heads_eight = load_heads(heads_at(query), channel);
                uvec4 d_heads_eight = load_d_heads(heads_at(query), channel);
                [[unroll]] for (uint i = 0; i < 4; ++i) {
                    sum += dot(unpack_two(heads_eight[i]), unpack_two(d_heads_eight[i]));
                }
            }
            if (tile < ROW_TILES) delta[row_at(query)] = sum;
        }
        row_values[tile * SIDE + row] = sum;
    }
    subgroupBarrier();
}

void find_lse(uint first_query, uint tile) {
    subgroupBarrier();
    for (uint row = gl_SubgroupInvocationID; row < SIDE; row += gl_SubgroupSize) {
        uint query = first_query + row;
        row_values[tile * SIDE + row] = query < push.context ? lse[row_at(query)] : 0.0;
    }
    subgroupBarrier();
}

uvec4 fetch_eight(bool second, uint position, uint channel) {
    return load_qkv(second ? VALUE_AT(position) : KEY_AT(position), channel);
}

// A tile of the block's columns.
#define WORK_ON_TILE(k) \
    uint key = first_key + k * SIDE; \
    if (NEEDED(key <= first_query + SIDE - 1)) { \
        SUM_MATRIX s; \
        MULTIPLY_TRANSPOSED(s, queries, k * SIDE) \
        SUM_MATRIX d_p; \
        MULTIPLY_TRANSPOSED(d_p, d_outputs, KEYS + k * SIDE) \
        if (DROPOUT != 0) d_p = d_p * dropout_tile(step, first_query, key, ROW_MAJOR, tile); \
        [[unroll]] for (uint i = 0; i < s.length(); ++i) s[i] = exp2(s[i] * to_base_2 - row_lse[i]); \
        if (key + SIDE - 1 > first_query) { \
            SUM_MATRIX beyond = columns_less_rows(); \
            float diagonal = float(first_query) - float(key); \
            [[unroll]] for (uint i = 0; i < s.length(); ++i) s[i] = beyond[i] > diagonal ? 0.0 : s[i]; \
        } \
        [[unroll]] for (uint i = 0; i < s.length(); ++i) { \
            s[i] = bounded(s[i] * (d_p[i] - row_delta[i]) * push.score_scale); \
        } \
        ADD_WEIGHTED(d_q, to_left(s, tile), k * SIDE) \
    }

void main() {
    // The longest rows first: they take longest.
    uint block = (blocks - 1 - block_index) * QUERIES;
    uvec2 step = DROPOUT != 0 ? uvec2(step_number[0], step_number[1]) : uvec2(0);
    float to_base_2 = push.scale * LOG2_OF_E;
    write_numbers();

    // Once, if there are as many subgroups as tiles of rows.
    for (uint pass = 0; pass < ROW_TILES; pass += gl_NumSubgroups) {
        uint tile = min(pass + gl_SubgroupID, ROW_TILES);
        uint first_query = block + tile * SIDE;
        bool works = tile < ROW_TILES && first_query < push.context;
        LEFT_MATRIX queries[DEPTH], d_outputs[DEPTH];
        SUM_MATRIX row_lse, row_delta;
        barrier();
        STAGE(0, QUERIES, block, load_qkv, QUERY_AT)
        barrier();
        LOAD_LEFT(queries, min(tile, ROW_TILES - 1) * SIDE)
        find_delta(first_query, tile);
        row_delta = spread_over_columns(tile);
        find_lse(first_query, tile);
        row_lse = spread_over_columns(tile);
        barrier();
        STAGE(0, QUERIES, block, load_d_heads, heads_at)
        barrier();
        LOAD_LEFT(d_outputs, min(tile, ROW_TILES - 1) * SIDE)
        SUM_MATRIX d_q[DEPTH];
        [[unroll]] for (uint c = 0; c < DEPTH; ++c) d_q[c] = SUM_MATRIX(0.0);

        if (PREFETCH != 0) fetch_columns(0);
        uint end = min(block + QUERIES, push.context);
        for (uint first_key = 0; first_key < end; first_key += KEYS) {
            barrier();
            if (PREFETCH == 0) fetch_columns(first_key);
            store_columns(first_key);
            barrier();
            if (PREFETCH != 0) fetch_columns(first_key + KEYS);
            if (NEEDED(works)) {
                if (UNROLLED != 0) {
                    [[unroll]] for (uint k = 0; k < COLUMN_TILES; ++k) {
                        WORK_ON_TILE(k)
                    }
                } else {
                    [[dont_unroll]] for (uint k = 0; k < COLUMN_TILES; ++k) {
                        WORK_ON_TILE(k)
                    }
                }
            }
        }

        [[unroll]] for (uint c = 0; c < DEPTH; ++c) d_q[c] = d_q[c] * (push.scale / push.score_scale * unscaled());
        STORE_ROWS(d_qkv, QUERY_AT, d_q, first_query, tile)
    }
}
