#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
// The forward matrix product for GPUs: C = A * B + bias.
#include "exact.glsl"

layout(std430, set = 0, binding = 0) readonly buffer A { float a[]; };       // [m, k], or [k, m] if TRANS_A
layout(std430, set = 0, binding = 1) readonly buffer B { float b[]; };       // [k, n], or [n, k] if TRANS_B
layout(std430, set = 0, binding = 2) buffer C { float c[]; };               // [m, n]
layout(std430, set = 0, binding = 3) readonly buffer Bias { float bias[]; }; // [n]
layout(std430, set = 0, binding = 0) readonly buffer AQuads { vec4 a_vec4[]; };
layout(std430, set = 0, binding = 1) readonly buffer BQuads { vec4 b_vec4[]; };
layout(std430, set = 0, binding = 2) buffer CQuads { vec4 c_vec4[]; };

#define LEFT a
#define LEFT_VEC4 a_vec4
#define RIGHT b
#define RIGHT_VEC4 b_vec4
#define RESULT c
#define RESULT_VEC4 c_vec4
#define BIAS(column) (push.use_bias != 0 ? bias[column] : 0.0)
#include "gemm_push.glsl"
#include "gemm_tiles.glsl"

#define MULTIPLY_ADD(x, y, sum) ((sum) + (x) * (y))
const uint TERMS_AT_A_TIME = K_BLOCK;
#include "gemm_shared.glsl"
