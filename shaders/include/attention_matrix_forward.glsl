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
STORE_EIGHT(heads)

uvec4 fetch_eight(bool second, uint position, uint channel) {
    return load_qkv(second ? VALUE_AT(position) : KEY_AT(position), channel);
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
        barrier();
        STAGE(0, QUERIES, block, load_qkv, QUERY_AT)
        barrier();
        LEFT_MATRIX queries[DEPTH];
        LOAD_LEFT(queries, min(tile, ROW_TILES - 1) * SIDE)
        SUM_MATRIX output_[DEPTH];
        [[unroll]] for (uint c = 0; c < DEPTH; ++c) output_[c] = SUM_MATRIX(0.0);
        SUM_MATRIX largest = SUM_MATRIX(LOWEST);
        SUM_MATRIX total = SUM_MATRIX(0.0);  // each element's part of its row's sum

        if (PREFETCH != 0) fetch_columns(0);
        uint end = min(block + QUERIES, push.context);
        for (uint first_key = 0; first_key < end; first_key += KEYS) {
            barrier();
            if (PREFETCH == 0) fetch_columns(first_key);
            store_columns(first_key);
            barrier();
            if (PREFETCH != 0) fetch_columns(first_key + KEYS);
            if (NEEDED(works && first_key <= first_query + SIDE - 1)) {
                SUM_MATRIX s[COLUMN_TILES];
                SUM_MATRIX highest = SUM_MATRIX(LOWEST);
                [[unroll]] for (uint k = 0; k < COLUMN_TILES; ++k) {
                    uint key = first_key + k * SIDE;
                    if (NEEDED(key <= first_query + SIDE - 1)) {
                        MULTIPLY_TRANSPOSED(s[k], queries, k * SIDE)
                        if (key + SIDE - 1 > first_query) {
                            SUM_MATRIX beyond = columns_less_rows();
                            float diagonal = float(first_query) - float(key);
                            [[unroll]] for (uint i = 0; i < s[k].length(); ++i) {
                                s[k][i] = beyond[i] > diagonal ? LOWEST : s[k][i];
                            }
                        }
                    } else {
                        s[k] = SUM_MATRIX(LOWEST);
                    }
                    [[unroll]] for (uint i = 0; i < s[k].length(); ++i) highest[i] = max(highest[i], s[k][i]);
                }
                highest = largest_of_rows(highest, tile);
                SUM_MATRIX shrink;
                [[unroll]] for (uint i = 0; i < shrink.length(); ++i) {
                    float now = max(largest[i], highest[i] * to_base_2);
                    shrink[i] = exp2(largest[i] - now);
                    largest[i] = now;
                }
                total = total * shrink;
                [[unroll]] for (uint c = 0; c < DEPTH; ++c) output_[c] = output_[c] * shrink;
                [[unroll]] for (uint k = 0; k < COLUMN_TILES; ++k) {
                    uint key = first_key + k * SIDE;
                    if (NEEDED(key <= first_query + SIDE - 1)) {
                        SUM_MATRIX p;
                        [[unroll]] for (uint i = 0; i < p.length(); ++i) p[i] = exp2(s[k][i] * to_base_2 - largest[i]);
                        total = total + p;
                        if (DROPOUT != 0) p = p * dropout_tile(step, first_query, key, ROW_MAJOR, tile);
                        ADD_WEIGHTED(output_, to_left(p, tile), KEYS + k * SIDE)
                    }
                }
            }
        }

        total = sum_of_rows(total, tile);
        SUM_MATRIX inv_total;
        [[unroll]] for (uint i = 0; i < total.length(); ++i) inv_total[i] = 1.0 / total[i];
        [[unroll]] for (uint c = 0; c < DEPTH; ++c) output_[c] = output_[c] * inv_total;
        STORE_ROWS(heads, heads_at, output_, first_query, tile)
        [[unroll]] for (uint i = 0; i < total.length(); ++i) total[i] = largest[i] + log_exact(total[i]) * LOG2_OF_E;
        store_sums(total, tile);
        for (uint row = gl_SubgroupInvocationID; row < SIDE; row += gl_SubgroupSize) {
            if (tile < ROW_TILES && first_query + row < push.context) {
                lse[row_at(first_query + row)] = sums[(tile * SIDE + row) * SCRATCH_PITCH].x;
            }
        }
    }
}
