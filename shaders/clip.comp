#version 460
#extension GL_GOOGLE_include_directive : require
// The step's loss, gradient norm, and the factor that clips the gradient to max_norm:
//   norm = sqrt(sum of squares),  clip = min(1, max_norm / (norm + 1e-6))
// (the 1e-6 is torch.nn.utils.clip_grad_norm_'s). max_norm = 0 turns clipping off. Where the loss is not
// finite or the norm is past 2^50, where the functions' domains end, clip = -1: the update must then change
// nothing.
#include "exact.glsl"

layout(local_size_x = 1) in;

const uint LARGEST_SUM_OF_SQUARES = 0x71800000u;  // 2^100

layout(std430, set = 0, binding = 0) readonly buffer SumOfSquares { float sum_of_squares[]; };  // [1]
layout(std430, set = 0, binding = 1) readonly buffer LossSum { float loss_sum[]; };             // [1]
layout(std430, set = 0, binding = 2) writeonly buffer Factor { float factor[]; };               // [1]
// [3]: mean loss, gradient norm, sum of squares
layout(std430, set = 0, binding = 3) writeonly buffer Results { float results[]; };
layout(std430, set = 0, binding = 4) writeonly buffer Spoiled { uint spoiled[]; };              // [1]: see adam_update

layout(push_constant) uniform Push {
    float max_norm;
    float inv_count;  // 1 / positions in the whole batch
} push;

void main() {
    // Past their domain the functions' results are nobody's promise, not even which NaN.
    bool within = sum_of_squares[0] <= uintBitsToFloat(LARGEST_SUM_OF_SQUARES);
    float norm = within ? sqrt_exact(sum_of_squares[0]) : sum_of_squares[0];
    float clip = snap(push.max_norm * recip(norm + 1e-6));
    bool clips = push.max_norm > 0.0 && clip < 1.0;
    bool sound = within && is_finite(loss_sum[0]);
    factor[0] = !sound ? -1.0 : clips ? clip : 1.0;
    spoiled[0] = 0xffffffffu;
    results[0] = loss_sum[0] * push.inv_count;
    results[1] = norm;
    results[2] = sum_of_squares[0];
}
