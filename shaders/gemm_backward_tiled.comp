#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
// The matrix product of the backward pass for GPUs: a gradient, so without bias.
#include "exact.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Input1 { float input1[]; };   // A: [m, k], or [k, m] if TRANS_A
layout(std430, set = 0, binding = 1) readonly buffer Input2 { float input2[]; };   // B: [k, n], or [n, k] if TRANS_B
layout(std430, set = 0, binding = 2) buffer Output { float output_[]; };          // C: [m, n]
layout(std430, set = 0, binding = 0) readonly buffer Input1Quads { vec4 input1_vec4[]; };
layout(std430, set = 0, binding = 1) readonly buffer Input2Quads { vec4 input2_vec4[]; };
layout(std430, set = 0, binding = 2) buffer OutputQuads { vec4 output_vec4[]; };

#define LEFT input1
#define LEFT_VEC4 input1_vec4
#define RIGHT input2
#define RIGHT_VEC4 input2_vec4
#define RESULT output_
#define RESULT_VEC4 output_vec4
#define BIAS(column) 0.0
#include "gemm_push.glsl"
#include "gemm_tiles.glsl"

#define MULTIPLY_ADD(x, y, sum) ((sum) + (x) * (y))
const uint TERMS_AT_A_TIME = K_BLOCK;
#include "gemm_shared.glsl"
