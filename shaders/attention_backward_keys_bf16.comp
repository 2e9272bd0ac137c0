#version 460
#extension GL_GOOGLE_include_directive : require
#pragma hlx fast
// Causal attention on matrix units, backward, the gradients of keys and values, with factors in bfloat16.
#define FACTOR_BF16
#include "attention_matrix_keys.glsl"
