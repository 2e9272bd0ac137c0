#version 460
#extension GL_GOOGLE_include_directive : require
#pragma hlx fast
// Causal attention in f32, forward: a workgroup computes one block of queries, going over the blocks of keys
// up to the diagonal with the softmax of what it has seen so far (online softmax).
#define ROW_COUNT QUERIES
#define COLUMN_COUNT KEYS
#include "exact.glsl"
#include "attention_tiles.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Qkv { float qkv[]; };            // [B,T,3C]
layout(std430, set = 0, binding = 1) readonly buffer Step { uint step_number[]; };    // [2], as in dropout.comp
layout(std430, set = 0, binding = 2) writeonly buffer Heads { float heads[]; };       // [B,T,C]
layout(std430, set = 0, binding = 3) writeonly buffer Lse { float lse[]; };           // [B,H,T]
layout(std430, set = 0, binding = 0) readonly buffer QkvQuads { vec4 qkv_vec4[]; };
layout(std430, set = 0, binding = 2) writeonly buffer HeadsQuads { vec4 heads_vec4[]; };

LOAD_QUAD(qkv)
STORE_QUAD(heads)

shared vec4 q_tile[QUERIES * PITCH];
shared vec4 k_tile[KEYS * PITCH];
shared vec4 v_tile[KEYS * PITCH];
shared vec4 p_tile[QUERIES * SCORE_PITCH];
shared float parts[QUERIES * ACROSS];

// Each invocation's part of four rows, combined over the invocations that share the rows.
#define SHARE_PARTS(x)                                                                          \
    [[unroll]] for (uint i = 0; i < 4; ++i) parts[(4 * down() + i) * ACROSS + across()] = x[i]; \
    barrier();

void main() {
    // The longest rows first: they take longest.
    uint first_query = (blocks - 1 - block_index) * QUERIES;
    FILL(q_tile, QUERIES, IN_ORDER, first_query, load_qkv, QUERY_AT)
    uvec2 step = DROPOUT != 0 ? uvec2(step_number[0], step_number[1]) : uvec2(0);
    float to_base_2 = push.scale * LOG2_OF_E;

    vec4 output_[4 * PARTS];
    [[unroll]] for (uint n = 0; n < 4 * PARTS; ++n) output_[n] = vec4(0.0);
    vec4 largest = vec4(LOWEST);
    vec4 sum = vec4(0.0);  // over this invocation's columns

    uint end = min(first_query + QUERIES, push.context);
    for (uint first_key = 0; first_key < end; first_key += KEYS) {
        barrier();
        FILL(k_tile, KEYS, slot, first_key, load_qkv, KEY_AT)
        FILL(v_tile, KEYS, IN_ORDER, first_key, load_qkv, VALUE_AT)
        barrier();
        vec4 s[4];
        [[unroll]] for (uint i = 0; i < 4; ++i) s[i] = vec4(0.0);
        ADD_PRODUCTS(s, q_tile, k_tile)

        vec4 part;
        [[unroll]] for (uint i = 0; i < 4; ++i) {
            s[i] *= to_base_2;
            if (first_key + KEYS > first_query) {
                [[unroll]] for (uint j = 0; j < 4; ++j) {
                    if (first_key + 4 * across() + j > first_query + 4 * down() + i) s[i][j] = LOWEST;
                }
            }
            part[i] = max(max(s[i].x, s[i].y), max(s[i].z, s[i].w));
        }
        SHARE_PARTS(part)
        vec4 before = largest;
        [[unroll]] for (uint i = 0; i < 4; ++i) {
            [[unroll]] for (uint a = 0; a < ACROSS; ++a) {
                largest[i] = max(largest[i], parts[(4 * down() + i) * ACROSS + a]);
            }
        }
        vec4 shrink = exp2(before - largest);
        sum *= shrink;
        [[unroll]] for (uint i = 0; i < 4; ++i) {
            vec4 p = exp2(s[i] - largest[i]);
            sum[i] += (p.x + p.y) + (p.z + p.w);
            if (DROPOUT != 0) p *= dropout_factors(step, first_query + 4 * down() + i, first_key + 4 * across());
            p_tile[(4 * down() + i) * SCORE_PITCH + across()] = p;
            [[unroll]] for (uint v = 0; v < PARTS; ++v) output_[i * PARTS + v] *= shrink[i];
        }
        barrier();
        ADD_WEIGHTED(output_, p_tile, v_tile, IN_ORDER)
    }

    SHARE_PARTS(sum)
    [[unroll]] for (uint i = 0; i < 4; ++i) {
        uint query = first_query + 4 * down() + i;
        if (query >= push.context) continue;
        float total = 0.0;
        [[unroll]] for (uint a = 0; a < ACROSS; ++a) total += parts[(4 * down() + i) * ACROSS + a];
        if (across() == 0) lse[row_at(query)] = largest[i] + log_exact(total) * LOG2_OF_E;
        float inv_total = 1.0 / total;
        [[unroll]] for (uint v = 0; v < PARTS; ++v) {
            store_heads(heads_at(query), 4 * (across() + v * ACROSS), output_[i * PARTS + v] * inv_total);
        }
    }
}
