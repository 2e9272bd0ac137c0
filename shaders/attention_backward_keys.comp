#version 460
#extension GL_GOOGLE_include_directive : require
#pragma hlx fast
// Causal attention in f32, backward, the gradients of keys and values: a workgroup computes one block of
// keys, going over the blocks of queries from the diagonal on.
#define ROW_COUNT KEYS
#define COLUMN_COUNT QUERIES
#include "attention_tiles.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Qkv { float qkv[]; };            // [B,T,3C]
layout(std430, set = 0, binding = 1) readonly buffer DHeads { float d_heads[]; };     // [B,T,C]
layout(std430, set = 0, binding = 2) readonly buffer Lse { float lse[]; };            // [B,H,T]
layout(std430, set = 0, binding = 3) readonly buffer Delta { float delta[]; };        // [B,H,T]
layout(std430, set = 0, binding = 4) readonly buffer Step { uint step_number[]; };    // [2], as in dropout.comp
layout(std430, set = 0, binding = 5) writeonly buffer DQkv { float d_qkv[]; };        // [B,T,3C]: keys and values
layout(std430, set = 0, binding = 0) readonly buffer QkvQuads { vec4 qkv_vec4[]; };
layout(std430, set = 0, binding = 1) readonly buffer DHeadsQuads { vec4 d_heads_vec4[]; };
layout(std430, set = 0, binding = 5) writeonly buffer DQkvQuads { vec4 d_qkv_vec4[]; };

LOAD_QUAD(qkv)
LOAD_QUAD(d_heads)
STORE_QUAD(d_qkv)

// Scores are transposed here: a row for each key, a column for each query.
shared vec4 k_tile[KEYS * PITCH];
shared vec4 v_tile[KEYS * PITCH];
shared vec4 q_tile[QUERIES * PITCH];
shared vec4 d_tile[QUERIES * PITCH];  // of d_heads
shared vec4 p_tile[KEYS * SCORE_PITCH];
shared vec4 s_tile[KEYS * SCORE_PITCH];

void main() {
    uint first_key = block_index * KEYS;
    FILL(k_tile, KEYS, IN_ORDER, first_key, load_qkv, KEY_AT)
    FILL(v_tile, KEYS, IN_ORDER, first_key, load_qkv, VALUE_AT)
    uvec2 step = DROPOUT != 0 ? uvec2(step_number[0], step_number[1]) : uvec2(0);
    float to_base_2 = push.scale * LOG2_OF_E;
    vec4 d_k[4 * PARTS], d_v[4 * PARTS];
    [[unroll]] for (uint n = 0; n < 4 * PARTS; ++n) d_k[n] = d_v[n] = vec4(0.0);

    for (uint first_query = first_key / QUERIES * QUERIES; first_query < push.context; first_query += QUERIES) {
        barrier();
        FILL(q_tile, QUERIES, slot, first_query, load_qkv, QUERY_AT)
        FILL(d_tile, QUERIES, slot, first_query, load_d_heads, heads_at)
        barrier();
        vec4 s[4], d_p[4];
        [[unroll]] for (uint i = 0; i < 4; ++i) s[i] = d_p[i] = vec4(0.0);
        ADD_PRODUCTS(s, k_tile, q_tile)
        ADD_PRODUCTS(d_p, v_tile, d_tile)
        [[unroll]] for (uint j = 0; j < 4; ++j) {
            uint query = first_query + 4 * across() + j;
            uint key = first_key + 4 * down();
            bool there = query < push.context;
            float row_lse = there ? lse[row_at(query)] : 0.0;
            float row_delta = there ? delta[row_at(query)] : 0.0;
            vec4 factors = DROPOUT != 0 ? dropout_factors(step, query, key) : vec4(1.0);
            [[unroll]] for (uint i = 0; i < 4; ++i) {
                float p = there && key + i <= query ? exp2(s[i][j] * to_base_2 - row_lse) : 0.0;
                s[i][j] = p * (d_p[i][j] * factors[i] - row_delta);
                d_p[i][j] = p * factors[i];
            }
        }
        [[unroll]] for (uint i = 0; i < 4; ++i) {
            p_tile[(4 * down() + i) * SCORE_PITCH + across()] = d_p[i];
            s_tile[(4 * down() + i) * SCORE_PITCH + across()] = s[i];
        }
        barrier();
        ADD_WEIGHTED(d_v, p_tile, d_tile, slot)
        ADD_WEIGHTED(d_k, s_tile, q_tile, slot)
    }

    [[unroll]] for (uint i = 0; i < 4; ++i) {
        uint key = first_key + 4 * down() + i;
        if (key >= push.context) continue;
        [[unroll]] for (uint v = 0; v < PARTS; ++v) {
            uint channel = 4 * (across() + v * ACROSS);
            store_d_qkv(qkv_at(1, key), channel, d_k[i * PARTS + v] * push.scale);
            store_d_qkv(qkv_at(2, key), channel, d_v[i * PARTS + v]);
        }
    }
}
