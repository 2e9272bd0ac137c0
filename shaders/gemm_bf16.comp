#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_bfloat16 : require
#pragma hlx fast
// The matrix product by 16-bit floats of 8 bits of exponent and 8 of significand: C = A * B + bias.

#include "gemm_bf16.glsl"
#include "gemm_matrix.glsl"
