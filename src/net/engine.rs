//! What a training plan computes with: the ops in f32 on a device, or the naive references in f64. One plan, one
//! executor, two engines: so the plan itself is proven against the original in f64.

use crate::device::{Device, TensorMut, TensorRef};
use crate::net::train_steps::TrainOp;
use crate::ops::adam::{self, AdamStep};
use crate::ops::batch_norm::{self, Norm, RunningStatistics};
use crate::ops::conv::{self, ConvShape, Epilogue, Panels};
use crate::ops::deform_conv::{self, DeformConvShape, OFFSET_CHANNELS};
use crate::ops::max_pool::{self, MaxPoolShape};
use crate::ops::up_conv::{self, UpConvShape};
use crate::ops::{Real, relu};
use anyhow::Result;

/// The ops of training. Shapes, errors and formulas are those of the rooms in `ops`; forward assigns, backward adds.
pub trait Engine {
    /// Type of every value.
    type Value: Real;

    /// Values that a step's gradient needs to work with.
    fn scratch_len(&self, op: &TrainOp) -> usize;

    /// Convolution with bias (or an empty one) and ReLU.
    fn conv(
        &self,
        shape: ConvShape,
        inp: TensorRef<Self::Value>,
        weights: &[Self::Value],
        bias: &[Self::Value],
        relu: bool,
        out: &mut TensorMut<Self::Value>,
    ) -> Result<()>;

    /// Its gradients; that of the input where it is wanted, that of the bias where there is one.
    fn conv_backward(
        &self,
        shape: ConvShape,
        inp: TensorRef<Self::Value>,
        weights: &[Self::Value],
        dout: TensorRef<Self::Value>,
        dinp: Option<&mut TensorMut<Self::Value>>,
        dweights: &mut [Self::Value],
        dbias: Option<&mut [Self::Value]>,
        scratch: &mut [Self::Value],
    ) -> Result<()>;

    /// Clears `dout` where `out` is not above 0.
    fn relu_backward(&self, out: TensorRef<Self::Value>, dout: &mut TensorMut<Self::Value>) -> Result<()>;

    /// Deformable convolution.
    fn deform_conv(
        &self,
        shape: DeformConvShape,
        inp: TensorRef<Self::Value>,
        offsets: TensorRef<Self::Value>,
        weights: &[Self::Value],
        bias: &[Self::Value],
        out: &mut TensorMut<Self::Value>,
    ) -> Result<()>;

    /// Its gradients.
    fn deform_conv_backward(
        &self,
        shape: DeformConvShape,
        inp: TensorRef<Self::Value>,
        offsets: TensorRef<Self::Value>,
        weights: &[Self::Value],
        dout: TensorRef<Self::Value>,
        gradients: deform_conv::Gradients<Self::Value>,
        scratch: &mut [Self::Value],
    ) -> Result<()>;

    /// Batch norm, sum, ReLU. `again`: by the statistics that an earlier call left in `saved`; `running` stays.
    fn norm(
        &self,
        norm: Norm,
        inp: TensorRef<Self::Value>,
        gamma: &[Self::Value],
        beta: &[Self::Value],
        running: RunningStatistics<Self::Value>,
        again: bool,
        residual: Option<TensorRef<Self::Value>>,
        saved: &mut [Self::Value],
        out: &mut TensorMut<Self::Value>,
    ) -> Result<()>;

    /// Its gradients.
    fn norm_backward(
        &self,
        norm: Norm,
        inp: TensorRef<Self::Value>,
        out: TensorRef<Self::Value>,
        dout: TensorRef<Self::Value>,
        gamma: &[Self::Value],
        saved: &[Self::Value],
        dinp: &mut TensorMut<Self::Value>,
        dresidual: Option<&mut TensorMut<Self::Value>>,
        dgamma: &mut [Self::Value],
        dbeta: &mut [Self::Value],
    ) -> Result<()>;

    /// Maximum of windows.
    fn max_pool(&self, shape: MaxPoolShape, inp: TensorRef<Self::Value>, out: &mut TensorMut<Self::Value>) -> Result<()>;

    /// Its gradient.
    fn max_pool_backward(
        &self,
        shape: MaxPoolShape,
        inp: TensorRef<Self::Value>,
        dout: TensorRef<Self::Value>,
        dinp: &mut TensorMut<Self::Value>,
    ) -> Result<()>;

    /// Enlargement and sum.
    fn up_conv(
        &self,
        shape: UpConvShape,
        inp: TensorRef<Self::Value>,
        weights: &[Self::Value],
        skip: Option<TensorRef<Self::Value>>,
        out: &mut TensorMut<Self::Value>,
    ) -> Result<()>;

    /// Its gradients.
    fn up_conv_backward(
        &self,
        shape: UpConvShape,
        inp: TensorRef<Self::Value>,
        weights: &[Self::Value],
        dout: TensorRef<Self::Value>,
        dinp: &mut TensorMut<Self::Value>,
        dweights: &mut [Self::Value],
    ) -> Result<()>;

    /// One step of Adam.
    fn adam(&self, step: AdamStep, p: &mut [Self::Value], g: &[Self::Value], m: &mut [Self::Value], v: &mut [Self::Value]) -> Result<()>;
}

/// The ops in f32 on a device.
#[derive(Debug)]
pub struct DeviceEngine(pub Device);

impl Engine for DeviceEngine {
    type Value = f32;

    fn scratch_len(&self, op: &TrainOp) -> usize {
        match op {
            TrainOp::Conv { shape, .. } => conv::weight_scratch_len(&self.0, *shape),
            TrainOp::DeformConv { shape, .. } => deform_conv::scratch_len(&self.0, *shape),
            TrainOp::Norm { .. } | TrainOp::MaxPool { .. } | TrainOp::UpConv { .. } => 0,
        }
    }

    fn conv(&self, shape: ConvShape, inp: TensorRef, weights: &[f32], bias: &[f32], relu: bool, out: &mut TensorMut) -> Result<()> {
        let panels = Panels::for_device(&self.0, shape.ci, shape.co, shape.kernel, weights, bias);
        conv::forward(&self.0, shape, inp, &panels, Epilogue { residual: None, relu }, out)
    }

    fn conv_backward(
        &self,
        shape: ConvShape,
        inp: TensorRef,
        weights: &[f32],
        dout: TensorRef,
        dinp: Option<&mut TensorMut>,
        dweights: &mut [f32],
        dbias: Option<&mut [f32]>,
        scratch: &mut [f32],
    ) -> Result<()> {
        if let Some(dinp) = dinp {
            conv::backward_data(&self.0, shape, weights, dout, dinp)?;
        }
        conv::backward_weights(&self.0, shape, inp, dout, dweights, dbias, scratch)
    }

    fn relu_backward(&self, out: TensorRef, dout: &mut TensorMut) -> Result<()> {
        relu::backward(&self.0, out, dout)
    }

    fn deform_conv(
        &self,
        shape: DeformConvShape,
        inp: TensorRef,
        offsets: TensorRef,
        weights: &[f32],
        bias: &[f32],
        out: &mut TensorMut,
    ) -> Result<()> {
        let panels = Panels::for_device(&self.0, shape.ci, shape.co, 3, weights, bias);
        deform_conv::forward(&self.0, shape, inp, offsets, &panels, false, out)
    }

    fn deform_conv_backward(
        &self,
        shape: DeformConvShape,
        inp: TensorRef,
        offsets: TensorRef,
        weights: &[f32],
        dout: TensorRef,
        gradients: deform_conv::Gradients,
        scratch: &mut [f32],
    ) -> Result<()> {
        deform_conv::backward(&self.0, shape, inp, offsets, weights, dout, gradients, scratch)
    }

    fn norm(
        &self,
        norm: Norm,
        inp: TensorRef,
        gamma: &[f32],
        beta: &[f32],
        running: RunningStatistics,
        again: bool,
        residual: Option<TensorRef>,
        saved: &mut [f32],
        out: &mut TensorMut,
    ) -> Result<()> {
        batch_norm::train_forward(&self.0, norm, inp, gamma, beta, (!again).then_some(running), residual, saved, out)
    }

    fn norm_backward(
        &self,
        norm: Norm,
        inp: TensorRef,
        out: TensorRef,
        dout: TensorRef,
        gamma: &[f32],
        saved: &[f32],
        dinp: &mut TensorMut,
        dresidual: Option<&mut TensorMut>,
        dgamma: &mut [f32],
        dbeta: &mut [f32],
    ) -> Result<()> {
        batch_norm::backward(&self.0, norm, inp, out, dout, gamma, saved, dinp, dresidual, dgamma, dbeta)
    }

    fn max_pool(&self, shape: MaxPoolShape, inp: TensorRef, out: &mut TensorMut) -> Result<()> {
        max_pool::forward(&self.0, shape, inp, out)
    }

    fn max_pool_backward(&self, shape: MaxPoolShape, inp: TensorRef, dout: TensorRef, dinp: &mut TensorMut) -> Result<()> {
        max_pool::backward(&self.0, shape, inp, dout, dinp)
    }

    fn up_conv(&self, shape: UpConvShape, inp: TensorRef, weights: &[f32], skip: Option<TensorRef>, out: &mut TensorMut) -> Result<()> {
        up_conv::forward(&self.0, shape, inp, &up_conv::pack(shape.c, shape.factor, weights), skip, out)
    }

    fn up_conv_backward(
        &self,
        shape: UpConvShape,
        inp: TensorRef,
        weights: &[f32],
        dout: TensorRef,
        dinp: &mut TensorMut,
        dweights: &mut [f32],
    ) -> Result<()> {
        up_conv::backward(&self.0, shape, inp, &up_conv::pack(shape.c, shape.factor, weights), dout, dinp, dweights)
    }

    fn adam(&self, step: AdamStep, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) -> Result<()> {
        adam::step(&self.0, step, p, g, m, v)
    }
}

/// The naive references in f64: slow, obvious, the truth.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReferenceEngine;

fn add(to: &mut [f64], values: &[f64]) {
    to.iter_mut().zip(values).for_each(|(to, value)| *to += value);
}

impl Engine for ReferenceEngine {
    type Value = f64;

    fn scratch_len(&self, _: &TrainOp) -> usize {
        0
    }

    fn conv(
        &self,
        shape: ConvShape,
        inp: TensorRef<f64>,
        weights: &[f64],
        bias: &[f64],
        relu: bool,
        out: &mut TensorMut<f64>,
    ) -> Result<()> {
        out.assign(&conv::reference(shape, &inp.to_vec(), weights, bias, None, relu));
        Ok(())
    }

    fn conv_backward(
        &self,
        shape: ConvShape,
        inp: TensorRef<f64>,
        weights: &[f64],
        dout: TensorRef<f64>,
        dinp: Option<&mut TensorMut<f64>>,
        dweights: &mut [f64],
        dbias: Option<&mut [f64]>,
        _: &mut [f64],
    ) -> Result<()> {
        let found = conv::reference_backward(shape, &inp.to_vec(), weights, &dout.to_vec());
        if let Some(dinp) = dinp {
            dinp.add(&found.0);
        }
        add(dweights, &found.1);
        if let Some(dbias) = dbias {
            add(dbias, &found.2);
        }
        Ok(())
    }

    fn relu_backward(&self, out: TensorRef<f64>, dout: &mut TensorMut<f64>) -> Result<()> {
        let gradient = relu::reference_backward(&out.to_vec(), &dout.as_ref().to_vec());
        dout.assign(&gradient);
        Ok(())
    }

    fn deform_conv(
        &self,
        shape: DeformConvShape,
        inp: TensorRef<f64>,
        offsets: TensorRef<f64>,
        weights: &[f64],
        bias: &[f64],
        out: &mut TensorMut<f64>,
    ) -> Result<()> {
        debug_assert!(offsets.shape()[3] == OFFSET_CHANNELS);
        out.assign(&deform_conv::reference(shape, &inp.to_vec(), &offsets.to_vec(), weights, bias, false));
        Ok(())
    }

    fn deform_conv_backward(
        &self,
        shape: DeformConvShape,
        inp: TensorRef<f64>,
        offsets: TensorRef<f64>,
        weights: &[f64],
        dout: TensorRef<f64>,
        gradients: deform_conv::Gradients<f64>,
        _: &mut [f64],
    ) -> Result<()> {
        let found = deform_conv::reference_backward(shape, &inp.to_vec(), &offsets.to_vec(), weights, &dout.to_vec());
        gradients.dinp.add(&found.0);
        gradients.doffsets.add(&found.1);
        add(gradients.dweights, &found.2);
        add(gradients.dbias, &found.3);
        Ok(())
    }

    fn norm(
        &self,
        norm: Norm,
        inp: TensorRef<f64>,
        gamma: &[f64],
        beta: &[f64],
        running: RunningStatistics<f64>,
        again: bool,
        residual: Option<TensorRef<f64>>,
        saved: &mut [f64],
        out: &mut TensorMut<f64>,
    ) -> Result<()> {
        let residual = residual.map(|residual| residual.to_vec());
        // The same batch has the same statistics; moved running ones are thrown away.
        let (mut mean, mut variance) = (running.mean.to_vec(), running.variance.to_vec());
        let spare = RunningStatistics { mean: &mut mean, variance: &mut variance };
        let running = if again { spare } else { running };
        let (values, kept) = batch_norm::reference_training(norm, &inp.to_vec(), gamma, beta, running, residual.as_deref());
        out.assign(&values);
        saved[..kept.len()].copy_from_slice(&kept);
        Ok(())
    }

    fn norm_backward(
        &self,
        norm: Norm,
        inp: TensorRef<f64>,
        out: TensorRef<f64>,
        dout: TensorRef<f64>,
        gamma: &[f64],
        saved: &[f64],
        dinp: &mut TensorMut<f64>,
        dresidual: Option<&mut TensorMut<f64>>,
        dgamma: &mut [f64],
        dbeta: &mut [f64],
    ) -> Result<()> {
        let saved = &saved[..2 * gamma.len()];
        let found = batch_norm::reference_backward(norm, &inp.to_vec(), &out.to_vec(), &dout.to_vec(), gamma, saved);
        dinp.add(&found.0);
        if let Some(dresidual) = dresidual {
            dresidual.add(&found.1);
        }
        add(dgamma, &found.2);
        add(dbeta, &found.3);
        Ok(())
    }

    fn max_pool(&self, shape: MaxPoolShape, inp: TensorRef<f64>, out: &mut TensorMut<f64>) -> Result<()> {
        out.assign(&max_pool::reference(shape, &inp.to_vec()));
        Ok(())
    }

    fn max_pool_backward(&self, shape: MaxPoolShape, inp: TensorRef<f64>, dout: TensorRef<f64>, dinp: &mut TensorMut<f64>) -> Result<()> {
        dinp.add(&max_pool::reference_backward(shape, &inp.to_vec(), &dout.to_vec()));
        Ok(())
    }

    fn up_conv(
        &self,
        shape: UpConvShape,
        inp: TensorRef<f64>,
        weights: &[f64],
        skip: Option<TensorRef<f64>>,
        out: &mut TensorMut<f64>,
    ) -> Result<()> {
        let skip = skip.map(|skip| skip.to_vec());
        out.assign(&up_conv::reference(shape, &inp.to_vec(), weights, skip.as_deref()));
        Ok(())
    }

    fn up_conv_backward(
        &self,
        shape: UpConvShape,
        inp: TensorRef<f64>,
        weights: &[f64],
        dout: TensorRef<f64>,
        dinp: &mut TensorMut<f64>,
        dweights: &mut [f64],
    ) -> Result<()> {
        let found = up_conv::reference_backward(shape, &inp.to_vec(), weights, &dout.to_vec());
        dinp.add(&found.0);
        add(dweights, &found.1);
        Ok(())
    }

    fn adam(&self, step: AdamStep, p: &mut [f64], g: &[f64], m: &mut [f64], v: &mut [f64]) -> Result<()> {
        adam::reference(step, p, g, m, v);
        Ok(())
    }
}
