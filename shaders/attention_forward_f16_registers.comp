#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_NV_cooperative_matrix2 : require
#pragma hlx fast
// Causal attention on matrix units, forward, with factors in half precision; sums become factors without
// memory.
#define IN_REGISTERS
#include "attention_matrix_forward.glsl"
