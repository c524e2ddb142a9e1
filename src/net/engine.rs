//! What a training plan computes with: the ops on a device, or the naive references in f64. One plan, one
//! executor, two engines: so the plan itself is proven against the original in f64.

use crate::device::{Device, TensorMut, TensorRef};
use crate::net::training::steps::TrainOp;
use crate::ops::adam::{self, AdamStep};
use crate::ops::batch_norm::{self, Norm, RunningStatistics};
use crate::ops::conv::{self, ConvShape, Epilogue, Panels};
use crate::ops::deform_conv::{self, DeformConvShape, OFFSET_CHANNELS};
use crate::ops::max_pool::{self, MaxPoolShape};
use crate::ops::up_conv::{self, UpConvShape};
use crate::ops::{Real, relu};
use anyhow::Result;
use std::marker::PhantomData;

/// The ops of training. Shapes, errors and formulas are those of the rooms in `ops`; forward assigns, backward adds.
/// Weights, statistics and scratch memory are flat views.
pub trait Engine {
    /// Type of every value.
    type Value: Real;

    /// Where its values lie.
    fn device(&self) -> &Device;

    /// Values that a step, or its gradient, needs to work with.
    fn scratch_len(&self, op: &TrainOp, backward: bool) -> usize;

    /// Convolution with bias (or an empty one) and ReLU.
    fn conv(
        &self,
        shape: ConvShape,
        inp: TensorRef<Self::Value>,
        weights: TensorRef<Self::Value>,
        bias: TensorRef<Self::Value>,
        relu: bool,
        out: &mut TensorMut<Self::Value>,
        scratch: &mut TensorMut<Self::Value>,
    ) -> Result<()>;

    /// Its gradients; that of the input where it is wanted, that of the bias where there is one.
    fn conv_backward(
        &self,
        shape: ConvShape,
        inp: TensorRef<Self::Value>,
        weights: TensorRef<Self::Value>,
        dout: TensorRef<Self::Value>,
        dinp: Option<&mut TensorMut<Self::Value>>,
        dweights: &mut TensorMut<Self::Value>,
        dbias: Option<&mut TensorMut<Self::Value>>,
        scratch: &mut TensorMut<Self::Value>,
    ) -> Result<()>;

    /// Clears `dout` where `out` is not above 0.
    fn relu_backward(&self, out: TensorRef<Self::Value>, dout: &mut TensorMut<Self::Value>) -> Result<()>;

    /// Deformable convolution.
    fn deform_conv(
        &self,
        shape: DeformConvShape,
        inp: TensorRef<Self::Value>,
        offsets: TensorRef<Self::Value>,
        weights: TensorRef<Self::Value>,
        bias: TensorRef<Self::Value>,
        out: &mut TensorMut<Self::Value>,
        scratch: &mut TensorMut<Self::Value>,
    ) -> Result<()>;

    /// Its gradients.
    fn deform_conv_backward(
        &self,
        shape: DeformConvShape,
        inp: TensorRef<Self::Value>,
        offsets: TensorRef<Self::Value>,
        weights: TensorRef<Self::Value>,
        dout: TensorRef<Self::Value>,
        gradients: deform_conv::Gradients<Self::Value>,
        scratch: &mut TensorMut<Self::Value>,
    ) -> Result<()>;

    /// Batch norm, sum, ReLU. `again`: by the statistics that an earlier call left in `saved`; `running` stays.
    fn norm(
        &self,
        norm: Norm,
        inp: TensorRef<Self::Value>,
        gamma: TensorRef<Self::Value>,
        beta: TensorRef<Self::Value>,
        running: RunningStatistics<Self::Value>,
        again: bool,
        residual: Option<TensorRef<Self::Value>>,
        saved: &mut TensorMut<Self::Value>,
        out: &mut TensorMut<Self::Value>,
        scratch: &mut TensorMut<Self::Value>,
    ) -> Result<()>;

    /// Its gradients.
    fn norm_backward(
        &self,
        norm: Norm,
        inp: TensorRef<Self::Value>,
        out: TensorRef<Self::Value>,
        dout: TensorRef<Self::Value>,
        gamma: TensorRef<Self::Value>,
        saved: TensorRef<Self::Value>,
        dinp: &mut TensorMut<Self::Value>,
        dresidual: Option<&mut TensorMut<Self::Value>>,
        dgamma: &mut TensorMut<Self::Value>,
        dbeta: &mut TensorMut<Self::Value>,
        scratch: &mut TensorMut<Self::Value>,
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
        weights: TensorRef<Self::Value>,
        skip: Option<TensorRef<Self::Value>>,
        out: &mut TensorMut<Self::Value>,
    ) -> Result<()>;

    /// Its gradients.
    fn up_conv_backward(
        &self,
        shape: UpConvShape,
        inp: TensorRef<Self::Value>,
        weights: TensorRef<Self::Value>,
        dout: TensorRef<Self::Value>,
        dinp: &mut TensorMut<Self::Value>,
        dweights: &mut TensorMut<Self::Value>,
        scratch: &mut TensorMut<Self::Value>,
    ) -> Result<()>;

    /// One step of Adam.
    fn adam(
        &self,
        step: AdamStep,
        p: &mut TensorMut<Self::Value>,
        g: TensorRef<Self::Value>,
        m: &mut TensorMut<Self::Value>,
        v: &mut TensorMut<Self::Value>,
    ) -> Result<()>;
}

/// The ops on a device: in f32, or in f64 on a GPU whose kernels were compiled to prove indices.
#[derive(Clone, Debug)]
pub struct DeviceEngine<T = f32> {
    device: Device,
    value: PhantomData<T>,
}

impl<T: Real> DeviceEngine<T> {
    /// Panics if the device computes in another type: a programming error.
    pub fn on(device: Device) -> Self {
        assert!(device.value_bytes() == size_of::<T>(), "{} bytes a value on {}", size_of::<T>(), device.describe());
        DeviceEngine { device, value: PhantomData }
    }
}

impl<T: Real> Engine for DeviceEngine<T> {
    type Value = T;

    fn device(&self) -> &Device {
        &self.device
    }

    fn scratch_len(&self, op: &TrainOp, backward: bool) -> usize {
        let device = &self.device;
        match op {
            TrainOp::Conv { shape, .. } if backward => conv::scratch_len::<T>(device, *shape),
            TrainOp::Conv { shape, .. } => Panels::<T>::scratch_len(device, shape.ci, shape.co, shape.kernel),
            TrainOp::DeformConv { shape, .. } if backward => deform_conv::scratch_len::<T>(device, *shape),
            TrainOp::DeformConv { shape, .. } => Panels::<T>::scratch_len(device, shape.ci, shape.co, 3),
            TrainOp::Norm { shape, .. } => batch_norm::scratch_len::<T>(device, *shape),
            TrainOp::UpConv { shape, .. } if backward => up_conv::scratch_len::<T>(device, *shape),
            TrainOp::MaxPool { .. } | TrainOp::UpConv { .. } => 0,
        }
    }

    fn conv(
        &self,
        shape: ConvShape,
        inp: TensorRef<T>,
        weights: TensorRef<T>,
        bias: TensorRef<T>,
        relu: bool,
        out: &mut TensorMut<T>,
        scratch: &mut TensorMut<T>,
    ) -> Result<()> {
        let panels = Panels::from_device(&self.device, shape.ci, shape.co, shape.kernel, weights, bias, scratch)?;
        conv::forward(&self.device, shape, inp, &panels, Epilogue { residual: None, relu }, out)
    }

    fn conv_backward(
        &self,
        shape: ConvShape,
        inp: TensorRef<T>,
        weights: TensorRef<T>,
        dout: TensorRef<T>,
        dinp: Option<&mut TensorMut<T>>,
        dweights: &mut TensorMut<T>,
        dbias: Option<&mut TensorMut<T>>,
        scratch: &mut TensorMut<T>,
    ) -> Result<()> {
        if let Some(dinp) = dinp {
            conv::backward_data(&self.device, shape, weights, dout, dinp, scratch)?;
        }
        conv::backward_weights(&self.device, shape, inp, dout, dweights, dbias, scratch)
    }

    fn relu_backward(&self, out: TensorRef<T>, dout: &mut TensorMut<T>) -> Result<()> {
        relu::backward(&self.device, out, dout)
    }

    fn deform_conv(
        &self,
        shape: DeformConvShape,
        inp: TensorRef<T>,
        offsets: TensorRef<T>,
        weights: TensorRef<T>,
        bias: TensorRef<T>,
        out: &mut TensorMut<T>,
        scratch: &mut TensorMut<T>,
    ) -> Result<()> {
        let panels = Panels::from_device(&self.device, shape.ci, shape.co, 3, weights, bias, scratch)?;
        deform_conv::forward(&self.device, shape, inp, offsets, &panels, false, out)
    }

    fn deform_conv_backward(
        &self,
        shape: DeformConvShape,
        inp: TensorRef<T>,
        offsets: TensorRef<T>,
        weights: TensorRef<T>,
        dout: TensorRef<T>,
        gradients: deform_conv::Gradients<T>,
        scratch: &mut TensorMut<T>,
    ) -> Result<()> {
        deform_conv::backward(&self.device, shape, inp, offsets, weights, dout, gradients, scratch)
    }

    fn norm(
        &self,
        norm: Norm,
        inp: TensorRef<T>,
        gamma: TensorRef<T>,
        beta: TensorRef<T>,
        running: RunningStatistics<T>,
        again: bool,
        residual: Option<TensorRef<T>>,
        saved: &mut TensorMut<T>,
        out: &mut TensorMut<T>,
        scratch: &mut TensorMut<T>,
    ) -> Result<()> {
        let running = (!again).then_some(running);
        batch_norm::train_forward(&self.device, norm, inp, gamma, beta, running, residual, saved, out, scratch)
    }

    fn norm_backward(
        &self,
        norm: Norm,
        inp: TensorRef<T>,
        out: TensorRef<T>,
        dout: TensorRef<T>,
        gamma: TensorRef<T>,
        saved: TensorRef<T>,
        dinp: &mut TensorMut<T>,
        dresidual: Option<&mut TensorMut<T>>,
        dgamma: &mut TensorMut<T>,
        dbeta: &mut TensorMut<T>,
        scratch: &mut TensorMut<T>,
    ) -> Result<()> {
        batch_norm::backward(&self.device, norm, inp, out, dout, gamma, saved, dinp, dresidual, dgamma, dbeta, scratch)
    }

    fn max_pool(&self, shape: MaxPoolShape, inp: TensorRef<T>, out: &mut TensorMut<T>) -> Result<()> {
        max_pool::forward(&self.device, shape, inp, out)
    }

    fn max_pool_backward(&self, shape: MaxPoolShape, inp: TensorRef<T>, dout: TensorRef<T>, dinp: &mut TensorMut<T>) -> Result<()> {
        max_pool::backward(&self.device, shape, inp, dout, dinp)
    }

    fn up_conv(
        &self,
        shape: UpConvShape,
        inp: TensorRef<T>,
        weights: TensorRef<T>,
        skip: Option<TensorRef<T>>,
        out: &mut TensorMut<T>,
    ) -> Result<()> {
        up_conv::forward(&self.device, shape, inp, weights, skip, out)
    }

    fn up_conv_backward(
        &self,
        shape: UpConvShape,
        inp: TensorRef<T>,
        weights: TensorRef<T>,
        dout: TensorRef<T>,
        dinp: &mut TensorMut<T>,
        dweights: &mut TensorMut<T>,
        scratch: &mut TensorMut<T>,
    ) -> Result<()> {
        up_conv::backward(&self.device, shape, inp, weights, dout, dinp, dweights, scratch)
    }

    fn adam(&self, step: AdamStep, p: &mut TensorMut<T>, g: TensorRef<T>, m: &mut TensorMut<T>, v: &mut TensorMut<T>) -> Result<()> {
        adam::step(&self.device, step, p, g, m, v)
    }
}

/// The naive references in f64: slow, obvious, the truth.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReferenceEngine;

impl Engine for ReferenceEngine {
    type Value = f64;

    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn scratch_len(&self, _: &TrainOp, _: bool) -> usize {
        0
    }

    fn conv(
        &self,
        shape: ConvShape,
        inp: TensorRef<f64>,
        weights: TensorRef<f64>,
        bias: TensorRef<f64>,
        relu: bool,
        out: &mut TensorMut<f64>,
        _: &mut TensorMut<f64>,
    ) -> Result<()> {
        out.assign(&conv::reference(shape, &inp.to_vec(), weights.as_slice(), bias.as_slice(), None, relu));
        Ok(())
    }

    fn conv_backward(
        &self,
        shape: ConvShape,
        inp: TensorRef<f64>,
        weights: TensorRef<f64>,
        dout: TensorRef<f64>,
        dinp: Option<&mut TensorMut<f64>>,
        dweights: &mut TensorMut<f64>,
        dbias: Option<&mut TensorMut<f64>>,
        _: &mut TensorMut<f64>,
    ) -> Result<()> {
        let found = conv::reference_backward(shape, &inp.to_vec(), weights.as_slice(), &dout.to_vec());
        if let Some(dinp) = dinp {
            dinp.add(&found.0);
        }
        dweights.add(&found.1);
        if let Some(dbias) = dbias {
            dbias.add(&found.2);
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
        weights: TensorRef<f64>,
        bias: TensorRef<f64>,
        out: &mut TensorMut<f64>,
        _: &mut TensorMut<f64>,
    ) -> Result<()> {
        debug_assert!(offsets.shape()[3] == OFFSET_CHANNELS);
        out.assign(&deform_conv::reference(shape, &inp.to_vec(), &offsets.to_vec(), weights.as_slice(), bias.as_slice(), false));
        Ok(())
    }

    fn deform_conv_backward(
        &self,
        shape: DeformConvShape,
        inp: TensorRef<f64>,
        offsets: TensorRef<f64>,
        weights: TensorRef<f64>,
        dout: TensorRef<f64>,
        gradients: deform_conv::Gradients<f64>,
        _: &mut TensorMut<f64>,
    ) -> Result<()> {
        let found = deform_conv::reference_backward(shape, &inp.to_vec(), &offsets.to_vec(), weights.as_slice(), &dout.to_vec());
        gradients.dinp.add(&found.0);
        gradients.doffsets.add(&found.1);
        gradients.dweights.add(&found.2);
        gradients.dbias.add(&found.3);
        Ok(())
    }

    fn norm(
        &self,
        norm: Norm,
        inp: TensorRef<f64>,
        gamma: TensorRef<f64>,
        beta: TensorRef<f64>,
        running: RunningStatistics<f64>,
        again: bool,
        residual: Option<TensorRef<f64>>,
        saved: &mut TensorMut<f64>,
        out: &mut TensorMut<f64>,
        _: &mut TensorMut<f64>,
    ) -> Result<()> {
        let residual = residual.map(|residual| residual.to_vec());
        // The same batch has the same statistics; moved running ones are thrown away.
        let (mut mean, mut variance) = (running.mean.as_ref().to_vec(), running.variance.as_ref().to_vec());
        let spare = RunningStatistics::of(&mut mean, &mut variance);
        let running = if again { spare } else { running };
        let (gamma, beta) = (gamma.as_slice(), beta.as_slice());
        let (values, kept) = batch_norm::reference_training(norm, &inp.to_vec(), gamma, beta, running, residual.as_deref());
        out.assign(&values);
        saved.as_mut_slice()[..kept.len()].copy_from_slice(&kept);
        Ok(())
    }

    fn norm_backward(
        &self,
        norm: Norm,
        inp: TensorRef<f64>,
        out: TensorRef<f64>,
        dout: TensorRef<f64>,
        gamma: TensorRef<f64>,
        saved: TensorRef<f64>,
        dinp: &mut TensorMut<f64>,
        dresidual: Option<&mut TensorMut<f64>>,
        dgamma: &mut TensorMut<f64>,
        dbeta: &mut TensorMut<f64>,
        _: &mut TensorMut<f64>,
    ) -> Result<()> {
        let saved = &saved.as_slice()[..2 * gamma.len()];
        let found = batch_norm::reference_backward(norm, &inp.to_vec(), &out.to_vec(), &dout.to_vec(), gamma.as_slice(), saved);
        dinp.add(&found.0);
        if let Some(dresidual) = dresidual {
            dresidual.add(&found.1);
        }
        dgamma.add(&found.2);
        dbeta.add(&found.3);
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
        weights: TensorRef<f64>,
        skip: Option<TensorRef<f64>>,
        out: &mut TensorMut<f64>,
    ) -> Result<()> {
        let skip = skip.map(|skip| skip.to_vec());
        out.assign(&up_conv::reference(shape, &inp.to_vec(), weights.as_slice(), skip.as_deref()));
        Ok(())
    }

    fn up_conv_backward(
        &self,
        shape: UpConvShape,
        inp: TensorRef<f64>,
        weights: TensorRef<f64>,
        dout: TensorRef<f64>,
        dinp: &mut TensorMut<f64>,
        dweights: &mut TensorMut<f64>,
        _: &mut TensorMut<f64>,
    ) -> Result<()> {
        let found = up_conv::reference_backward(shape, &inp.to_vec(), weights.as_slice(), &dout.to_vec());
        dinp.add(&found.0);
        dweights.add(&found.1);
        Ok(())
    }

    fn adam(
        &self,
        step: AdamStep,
        p: &mut TensorMut<f64>,
        g: TensorRef<f64>,
        m: &mut TensorMut<f64>,
        v: &mut TensorMut<f64>,
    ) -> Result<()> {
        adam::reference(step, p.as_mut_slice(), g.as_slice(), m.as_mut_slice(), v.as_mut_slice());
        Ok(())
    }
}
