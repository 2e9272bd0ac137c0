#version 460
#extension GL_GOOGLE_include_directive : require
// Token plus position embedding: output[b,t,c] = wte[tokens[b,t],c] + wpe[t,c].
layout(local_size_x = 256) in;

#include "exact.glsl"
#include "flat.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Tokens { uint tokens[]; };     // [B,T]
layout(std430, set = 0, binding = 1) readonly buffer Wte { float wte[]; };          // [V,C]
layout(std430, set = 0, binding = 2) readonly buffer Wpe { float wpe[]; };          // [T,C]
layout(std430, set = 0, binding = 3) writeonly buffer Output { float output_[]; };  // [B,T,C]

layout(push_constant) uniform Push {
    uint num_positions;  // B*T
    uint context;        // T
    uint d_model;        // C
} push;

void main() {
    uint i = flat_index();
    if (i >= push.num_positions * push.d_model) return;
    uint position = i / push.d_model;
    uint c = i % push.d_model;
    float token = wte[tokens[position] * push.d_model + c];
    output_[i] = snap(token + wpe[(position % push.context) * push.d_model + c]);
}
