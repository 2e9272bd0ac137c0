// The tanh form of GELU (Hendrycks & Gimpel 2016) by the device's own exp: x * sigmoid(2 u) with
// u = sqrt(2/pi) * (x + 0.044715 x^3), since (1 + tanh u) / 2 = sigmoid(2 u).

const float TWO_SQRT_2_OVER_PI = 1.5957691216057308;
const float CUBE = 0.044715;

vec4 sigmoid_of_gelu(vec4 x) {
    // Past 1 / exp(88) nothing is left of an f32: no infinity must meet a zero.
    return 1.0 / (1.0 + exp(min(-TWO_SQRT_2_OVER_PI * x * (1.0 + CUBE * x * x), 80.0)));
}

vec4 gelu_fast(vec4 x) {
    return x * sigmoid_of_gelu(x);
}

vec4 gelu_grad_of(vec4 x, vec4 s) {
    return s + x * s * (1.0 - s) * (TWO_SQRT_2_OVER_PI * (1.0 + 3.0 * CUBE * x * x));
}

vec4 gelu_grad_fast(vec4 x) {
    return gelu_grad_of(x, sigmoid_of_gelu(x));
}
