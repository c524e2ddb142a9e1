// A libcudnn.so for tests, which computes on memory of the host what it is asked for, slowly, in double. It checks what it is
// told: handles, descriptors, the order of arguments. What is called in a wrong way ends the process.
// Compiled with -DOLD it is of version 7; with -DINCOMPLETE it lacks a call.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HANDLE = 0x1111, BAD_PARAM = 3, NOT_SUPPORTED = 9, TENSOR = 1, FILTER = 2, CONVOLUTION = 3, ACTIVATION = 4 };
typedef struct {
    int kind, is_set, size[4], stride[4], pad, step, math, mode;
} Object;
// As in cudnn.h.
typedef struct {
    int algorithm, status;
    float time;
    size_t memory;
    int determinism, math, reserved[3];
} Performance;

static int alive;
static void *stream;

static void expect(int what, const char *words) {
    if (!what) fprintf(stderr, "libcudnn for tests: %s\n", words), abort();
}
static const Object *is(const void *object, int kind) {
    expect(object && ((const Object *)object)->kind == kind && ((const Object *)object)->is_set, "a descriptor of another kind, or not set");
    return object;
}
static int make(void **to, int kind) {
    Object *object = calloc(1, sizeof(Object));
    object->kind = kind;
    alive++;
    *to = object;
    return 0;
}
static int destroy(Object *object, int kind) {
    expect(object->kind == kind, "a descriptor destroyed as another");
    free(object);
    alive--;
    return 0;
}

size_t cudnnGetVersion(void) {
#ifdef OLD
    return 7605;
#else
    return 90102;
#endif
}
const char *cudnnGetErrorString(int status) { return status == NOT_SUPPORTED ? "CUDNN_STATUS_NOT_SUPPORTED" : "CUDNN_STATUS_BAD_PARAM"; }
int cudnnCreate(void **handle) { return *handle = (void *)HANDLE, 0; }
int cudnnDestroy(void *handle) {
    expect(handle == (void *)HANDLE && alive == 0, "the end of a handle that is none, or with descriptors left");
    return 0;
}
int cudnnSetStream(void *handle, void *of) {
    expect(handle == (void *)HANDLE, "cudnnSetStream");
    stream = of;
    return 0;
}
int cudnnCreateTensorDescriptor(void **to) { return make(to, TENSOR); }
int cudnnCreateFilterDescriptor(void **to) { return make(to, FILTER); }
int cudnnCreateConvolutionDescriptor(void **to) { return make(to, CONVOLUTION); }
int cudnnCreateActivationDescriptor(void **to) { return make(to, ACTIVATION); }
int cudnnDestroyTensorDescriptor(void *object) { return destroy(object, TENSOR); }
int cudnnDestroyFilterDescriptor(void *object) { return destroy(object, FILTER); }
int cudnnDestroyConvolutionDescriptor(void *object) { return destroy(object, CONVOLUTION); }
int cudnnDestroyActivationDescriptor(void *object) { return destroy(object, ACTIVATION); }

int cudnnSetTensor4dDescriptorEx(Object *o, int type, int n, int c, int h, int w, int sn, int sc, int sh, int sw) {
    expect(o->kind == TENSOR && type == 0 && n > 0 && c > 0 && h > 0 && w > 0, "cudnnSetTensor4dDescriptorEx");
    expect(sc == 1 && sw >= c && sh >= w * sw && sn >= h * sh, "a map that is not channels last");
    *o = (Object){.kind = TENSOR, .is_set = 1, .size = {n, c, h, w}, .stride = {sn, sc, sh, sw}};
    return 0;
}
int cudnnSetFilter4dDescriptor(Object *o, int type, int format, int k, int c, int h, int w) {
    expect(o->kind == FILTER && type == 0 && format == 0 && h == w, "cudnnSetFilter4dDescriptor");
    *o = (Object){.kind = FILTER, .is_set = 1, .size = {k, c, h, w}, .stride = {c * h * w, h * w, w, 1}};
    return 0;
}
int cudnnSetConvolution2dDescriptor(Object *o, int ph, int pw, int u, int v, int dh, int dw, int mode, int type) {
    expect(o->kind == CONVOLUTION && ph == pw && u == v && dh == 1 && dw == 1 && mode == 1 && type == 0, "cudnnSetConvolution2dDescriptor");
    o->is_set = 1, o->pad = ph, o->step = u;
    return 0;
}
int cudnnSetConvolutionMathType(Object *o, int math) {
    expect(o->kind == CONVOLUTION, "cudnnSetConvolutionMathType");
    o->math = math;
    return 0;
}
int cudnnSetActivationDescriptor(Object *o, int mode, int nan, double bound) {
    expect(o->kind == ACTIVATION && (mode == 1 || mode == 5) && nan == 1 && bound == 0, "cudnnSetActivationDescriptor");
    o->is_set = 1, o->mode = mode;
    return 0;
}

// The first is the best, and sums in any order; the second needs too much; the third is that of a transform.
static int list(const Object *inp, int wanted, int *count, Performance *found, int first) {
    expect(wanted >= 5, "room for too few algorithms");
    if (inp->size[1] == 13) return NOT_SUPPORTED;
    found[0] = (Performance){first, 0, 1, 0, 0, 0, {0}};
    found[1] = (Performance){first, 0, 2, (size_t)1 << 40, 1, 3, {0}};
    found[2] = (Performance){6, 0, 3, 64, 1, 3, {0}};
    found[3] = (Performance){first, 0, 4, 64, 1, 1, {0}};
    found[4] = (Performance){first, 0, 5, 128, 1, 3, {0}};
    *count = 5;
    return 0;
}
int cudnnGetConvolutionForwardAlgorithm_v7(void *handle, void *x, void *w, void *conv, void *y, int wanted, int *count, Performance *found) {
    expect(handle == (void *)HANDLE && is(w, FILTER) && is(conv, CONVOLUTION)->math == 3 && is(y, TENSOR), "the forward list");
    return list(is(x, TENSOR), wanted, count, found, 1);
}
int cudnnGetConvolutionBackwardDataAlgorithm_v7(void *handle, void *w, void *dy, void *conv, void *dx, int wanted, int *count, Performance *found) {
    expect(handle == (void *)HANDLE && is(w, FILTER) && is(conv, CONVOLUTION)->math == 3 && is(dy, TENSOR), "the list of data");
    return list(is(dx, TENSOR), wanted, count, found, 1);
}
int cudnnGetConvolutionBackwardFilterAlgorithm_v7(void *handle, void *x, void *dy, void *conv, void *dw, int wanted, int *count, Performance *found) {
    expect(handle == (void *)HANDLE && is(dw, FILTER) && is(conv, CONVOLUTION)->math == 3 && is(dy, TENSOR), "the list of filters");
    return list(is(x, TENSOR), wanted, count, found, 1);
}

static size_t at(const Object *o, int a, int b, int c, int d) {
    return (size_t)a * o->stride[0] + (size_t)b * o->stride[1] + (size_t)c * o->stride[2] + (size_t)d * o->stride[3];
}

// Every product of an input value and a weight that meet in an output value: what = 0 adds to out, 1 to inp, 2 to weights.
static void products(const Object *x, float *inp, const Object *w, float *weights, const Object *conv, const Object *y, float *out, double *to, int what) {
    const int *k = w->size;
    expect(k[0] == y->size[1] && k[1] == x->size[1] && x->size[0] == y->size[0], "extents that do not fit");
    for (int i = 2; i < 4; i++) expect(y->size[i] == (x->size[i] + 2 * conv->pad - k[i]) / conv->step + 1, "the output's extent");
    size_t place = 0;
    for (int n = 0; n < y->size[0]; n++) for (int o = 0; o < k[0]; o++) for (int py = 0; py < y->size[2]; py++) for (int px = 0; px < y->size[3]; px++, place++)
        for (int c = 0; c < k[1]; c++) for (int i = 0; i < k[2]; i++) for (int j = 0; j < k[3]; j++) {
            int iy = py * conv->step + i - conv->pad, ix = px * conv->step + j - conv->pad;
            if (iy < 0 || ix < 0 || iy >= x->size[2] || ix >= x->size[3]) continue;
            size_t from = at(x, n, c, iy, ix), weight = at(w, o, c, i, j);
            if (what == 0) to[place] += (double)inp[from] * weights[weight];
            if (what == 1) to[((size_t)(n * k[1] + c) * x->size[2] + iy) * x->size[3] + ix] += (double)out[at(y, n, o, py, px)] * weights[weight];
            if (what == 2) to[weight] += (double)out[at(y, n, o, py, px)] * inp[from];
        }
}
static double *zeros(const int *size) { return calloc((size_t)size[0] * size[1] * size[2] * size[3], sizeof(double)); }
static void check_run(void *handle, const Object *conv, int algorithm, void *room, size_t bytes) {
    expect(handle == (void *)HANDLE && stream == (void *)0x77, "a handle without the stream");
    expect(conv->math == 3, "products in less than f32");
    expect(algorithm == 1 && bytes == 128 && room, "another algorithm or workspace than was asked for");
    memset(room, 0xff, bytes);
}

int cudnnConvolutionBiasActivationForward(void *handle, const float *a1, void *xd, float *x, void *wd, float *w, void *cd, int algorithm, void *room,
                                          size_t bytes, const float *a2, void *zd, float *z, void *bd, float *bias, void *ad, void *yd, float *y) {
    const Object *of_x = is(xd, TENSOR), *of_z = is(zd, TENSOR), *of_b = is(bd, TENSOR), *of_y = is(yd, TENSOR), *conv = is(cd, CONVOLUTION);
    check_run(handle, conv, algorithm, room, bytes);
    expect(*a1 == 1 && (*a2 == 1 || (*a2 == 0 && z == y)), "scales");
    expect(of_b->size[0] == 1 && of_b->size[1] == of_y->size[1] && of_b->size[2] == 1 && of_b->size[3] == 1, "the bias");
    expect(!memcmp(of_z->size, of_y->size, sizeof(of_y->size)), "the residual");
    double *sum = zeros(of_y->size);
    products(of_x, x, is(wd, FILTER), w, conv, of_y, y, sum, 0);
    size_t place = 0;
    for (int n = 0; n < of_y->size[0]; n++) for (int o = 0; o < of_y->size[1]; o++) for (int i = 0; i < of_y->size[2]; i++) for (int j = 0; j < of_y->size[3]; j++) {
        double value = sum[place++] + bias[o] + (*a2 == 1 ? z[at(of_z, n, o, i, j)] : 0);
        y[at(of_y, n, o, i, j)] = (float)(is(ad, ACTIVATION)->mode == 1 && value < 0 ? 0 : value);
    }
    free(sum);
    return 0;
}
int cudnnConvolutionBackwardData(void *handle, const float *a, void *wd, float *w, void *dyd, float *dy, void *cd, int algorithm, void *room, size_t bytes,
                                 const float *b, void *dxd, float *dx) {
    const Object *of_x = is(dxd, TENSOR), *conv = is(cd, CONVOLUTION);
    check_run(handle, conv, algorithm, room, bytes);
    expect(*a == 1 && *b == 1, "scales");
    double *sum = zeros(of_x->size);
    products(of_x, dx, is(wd, FILTER), w, conv, is(dyd, TENSOR), dy, sum, 1);
    size_t place = 0;
    for (int n = 0; n < of_x->size[0]; n++) for (int c = 0; c < of_x->size[1]; c++) for (int i = 0; i < of_x->size[2]; i++) for (int j = 0; j < of_x->size[3]; j++)
        dx[at(of_x, n, c, i, j)] += (float)sum[place++];
    free(sum);
    return 0;
}
#ifndef INCOMPLETE
int cudnnConvolutionBackwardFilter(void *handle, const float *a, void *xd, float *x, void *dyd, float *dy, void *cd, int algorithm, void *room, size_t bytes,
                                   const float *b, void *dwd, float *dw) {
    const Object *of_w = is(dwd, FILTER), *conv = is(cd, CONVOLUTION);
    check_run(handle, conv, algorithm, room, bytes);
    expect(*a == 1 && *b == 1, "scales");
    double *sum = zeros(of_w->size);
    products(is(xd, TENSOR), x, of_w, dw, conv, is(dyd, TENSOR), dy, sum, 2);
    for (int i = 0; i < of_w->size[0] * of_w->stride[0]; i++) dw[i] += (float)sum[i];
    free(sum);
    return 0;
}
#endif
