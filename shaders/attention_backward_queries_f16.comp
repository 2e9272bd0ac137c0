#version 460
#extension GL_GOOGLE_include_directive : require
#pragma hlx fast
// Causal attention on matrix units, backward, the queries' gradient, with factors in half precision.
#include "attention_matrix_queries.glsl"
