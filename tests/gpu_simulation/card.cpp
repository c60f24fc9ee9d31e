// An NVIDIA card that is not there: tensors of device "cuda" on a PyTorch that was built without CUDA.
//
// The card's memory is memory of this process. Autograd, autocast, loss scaling and the optimizers are PyTorch's own code for
// CUDA; only the kernels below them are missing. Every operation without a kernel here comes to `run_on_host`, which refuses
// tensors on different devices, runs the CPU's kernel on CPU tensors over the same memory, and gives its result back as a
// tensor of the card. Every storage is counted against the card's memory.
//
// For models of true size, operations on large tensors can be skipped (`skip_from`): they run on PyTorch's meta device, which knows
// shapes and no numbers, and their results lie in memory that is counted and that nobody touches. Numbers that nobody has computed
// are zero.
//
// What this shows of a real card: devices, number formats, memory, which kernels the card lacks. What it does not: speed, the
// order in which a real kernel adds up, fragmentation of memory, and what the libraries of a card take as workspace.
//
// Loaded with dlopen before PyTorch's Python part, which asks once which backends there are; controlled through the C functions
// at the end (`driver.py`).
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/library.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <mutex>
#include <set>
#include <unordered_map>

namespace {

using at::Tensor;
using c10::Device;
using c10::DeviceIndex;
using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::IValue;

// ---- the card and its memory ---------------------------------------------------------------------------------------------

constexpr int MOST_CARDS = 8;
int card_count = 1;
int capability = 75;  // 10 * major + minor
int64_t memory_limit = INT64_MAX;  // bytes on each card
int64_t skip_from = INT64_MAX;     // bytes of an operation's largest tensor from which on it is not computed
thread_local DeviceIndex current_card = 0;

// PyTorch's allocator keeps freed memory for its own process, until `torch.cuda.empty_cache()`: `held`.
std::mutex memory_mutex;
struct {
  int64_t allocated = 0, held = 0, peak = 0, allocations = 0;
} memory[MOST_CARDS];

// Several processes on the first card, in a file that each of them maps; `run.py` reads it. Each holds a lock on a byte of the file,
// which the system takes from it when it ends, however it ends.
class Ledger {
 public:
  struct Holder {
    std::atomic<int64_t> held, at_peak;
    char name[112];
  };
  struct Page {
    std::atomic<int64_t> peak;
    Holder holders[31];
  };

  void join(const char* file, const char* name, int64_t bytes, int64_t of_a_context) {
    if (page_) return;
    file_ = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    TORCH_CHECK(file_ >= 0 && ftruncate(file_, sizeof(Page)) == 0, "cannot share a simulated card in ", file);
    void* mapped = mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE, MAP_SHARED, file_, 0);
    TORCH_CHECK(mapped != MAP_FAILED, "cannot map ", file);
    page_ = static_cast<Page*>(mapped);
    bytes_ = bytes;
    context_ = of_a_context;
    for (auto& holder : page_->holders) {
      if (!locks(F_SETLK, holder)) continue;
      mine_ = &holder;
      break;
    }
    TORCH_CHECK(mine_, "too many processes on a simulated card");
    mine_->held = mine_->at_peak = 0;
    std::strncpy(mine_->name, name, sizeof mine_->name - 1);
  }

  // Whether there is room for so much more; a process's first allocation makes its context.
  bool take(int64_t more) {
    if (!page_) return true;
    if (mine_->held == 0) more += context_;
    if (total() + more > bytes_) return false;
    mine_->held += more;
    if (const auto now = total(); now > page_->peak) {
      page_->peak = now;
      for (auto& holder : page_->holders) holder.at_peak = holder.held.load();
    }
    return true;
  }

  void give_back(int64_t bytes) {
    if (page_) mine_->held -= bytes;
  }

  int64_t available() { return page_ ? bytes_ - total() - (mine_->held == 0 ? context_ : 0) : -1; }

 private:
  int64_t total() {
    int64_t sum = 0;
    for (auto& holder : page_->holders) {
      if (holder.held && &holder != mine_ && locks(F_GETLK, holder)) holder.held = 0;  // its process is no more
      sum += holder.held;
    }
    return sum;
  }

  bool locks(int command, const Holder& holder) {
    struct flock lock {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    lock.l_start = &holder - page_->holders;
    lock.l_len = 1;
    return fcntl(file_, command, &lock) == 0 && (command == F_SETLK || lock.l_type == F_UNLCK);
  }

  int file_ = -1;
  Page* page_ = nullptr;
  Holder* mine_ = nullptr;
  int64_t bytes_ = 0, context_ = 0;
} ledger;

struct Block {
  void* start;
  int64_t bytes;
  DeviceIndex card;
  bool mapped;
};

// Where operations are skipped, memory that nobody has written is zero, and large memory is not there before somebody touches it.
Block* new_block(int64_t bytes, DeviceIndex card) {
  if (bytes < skip_from) {
    void* start = c10::alloc_cpu(bytes);
    if (skip_from != INT64_MAX) std::memset(start, 0, bytes);
    return new Block{start, bytes, card, false};
  }
  void* start = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  TORCH_CHECK(start != MAP_FAILED, "no address space for ", bytes, " bytes");
  return new Block{start, bytes, card, true};
}

void free_block(void* context) {
  auto* block = static_cast<Block*>(context);
  if (block->mapped) munmap(block->start, block->bytes);
  else c10::free_cpu(block->start);
  std::lock_guard<std::mutex> lock(memory_mutex);
  memory[block->card].allocated -= block->bytes;
  delete block;
}

// Rounds as CUDACachingAllocator does, so that what is counted is what `torch.cuda.memory_allocated` says on a real card.
struct CardAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t asked) override {
    const Device device(at::kCUDA, current_card);
    if (asked == 0) return {nullptr, nullptr, &c10::detail::deleteNothing, device};
    const int64_t bytes = static_cast<int64_t>((asked + 511) / 512 * 512);
    {
      std::lock_guard<std::mutex> lock(memory_mutex);
      auto& mine = memory[current_card];
      const auto more = std::max<int64_t>(0, mine.allocated + bytes - mine.held);
      if (bytes > memory_limit - mine.allocated || (more && current_card == 0 && !ledger.take(more))) {
        C10_THROW_ERROR(OutOfMemoryError, c10::str("CUDA out of memory. Tried to allocate ", bytes >> 20, " MiB. GPU ", int(current_card),
                                                   " (simulated) has ", memory_limit >> 20, " MiB, of which ",
                                                   mine.allocated >> 20, " MiB are allocated."));
      }
      mine.allocated += bytes;
      mine.held += more;
      mine.allocations += 1;
      mine.peak = std::max(mine.peak, mine.allocated);
    }
    auto* block = new_block(bytes, current_card);
    return {block->start, block, &free_block, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
} card_allocator;

DeviceIndex exchange(DeviceIndex card) {
  const auto before = current_card;
  if (card >= 0) {
    TORCH_CHECK(card < card_count, "CUDA error: invalid device ordinal");
    current_card = card;
  }
  return before;
}

// One stream, on which everything has happened by the time anybody asks.
struct CardGuard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return at::kCUDA; }
  Device exchangeDevice(Device device) const override { return Device(at::kCUDA, exchange(device.index())); }
  Device getDevice() const override { return Device(at::kCUDA, current_card); }
  void setDevice(Device device) const override { exchange(device.index()); }
  void uncheckedSetDevice(Device device) const noexcept override {
    if (device.has_index()) current_card = device.index();
  }
  c10::Stream getStream(Device device) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream getDefaultStream(Device device) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  DeviceIndex deviceCount() const noexcept override { return static_cast<DeviceIndex>(card_count); }
  void record(void**, const c10::Stream&, DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(DeviceIndex) const override {}
};
C10_REGISTER_GUARD_IMPL(CUDA, CardGuard)

// ---- random numbers -------------------------------------------------------------------------------------------------------

// A generator of the card has a state of its own. CPU kernels draw from the host's generator, so the two change states for as
// long as an operation runs that draws (`Drawing`).
struct CardGenerator final : at::CPUGeneratorImpl {
  explicit CardGenerator(DeviceIndex card) : at::CPUGeneratorImpl(c10::default_rng_seed_val) {
    device_ = Device(at::kCUDA, card);
    key_set_ = DispatchKeySet(DispatchKey::CUDA);
  }
};

const at::Generator& default_generator(DeviceIndex card) {
  static const std::vector<at::Generator> all = [] {
    std::vector<at::Generator> made;
    for (DeviceIndex i = 0; i < MOST_CARDS; ++i) made.push_back(at::make_generator<CardGenerator>(i));
    return made;
  }();
  return all.at(card < 0 ? current_card : card);
}

// The first that is asked for is the card's default one: driver.py asks, for `torch.cuda.default_generators`.
at::Generator new_generator(DeviceIndex card) {
  static bool handed_out[MOST_CARDS] = {};
  if (card < 0) card = current_card;
  if (!std::exchange(handed_out[card], true)) return default_generator(card);
  return at::make_generator<CardGenerator>(card);
}

void exchange_states(at::CPUGeneratorImpl& a, at::CPUGeneratorImpl& b) {
  const auto engine = a.engine();
  const auto sample = a.next_float_normal_sample();
  const auto wide_sample = a.next_double_normal_sample();
  a.set_engine(b.engine());
  a.set_next_float_normal_sample(b.next_float_normal_sample());
  a.set_next_double_normal_sample(b.next_double_normal_sample());
  b.set_engine(engine);
  b.set_next_float_normal_sample(sample);
  b.set_next_double_normal_sample(wide_sample);
}

class Drawing {
 public:
  explicit Drawing(at::Generator of_card)
      : lock_(one_at_a_time), card_(std::move(of_card)), host_(at::detail::getDefaultCPUGenerator()) {
    change();
  }
  ~Drawing() { change(); }
  Drawing(const Drawing&) = delete;
  Drawing& operator=(const Drawing&) = delete;

 private:
  void change() { exchange_states(*card_.get<at::CPUGeneratorImpl>(), *host_.get<at::CPUGeneratorImpl>()); }
  static inline std::recursive_mutex one_at_a_time;
  std::lock_guard<std::recursive_mutex> lock_;
  at::Generator card_, host_;
};

// ---- one operation, on the host ---------------------------------------------------------------------------------------------

// The tensors of one operation: each of the card's has a double on the host, over the same memory, or on the meta device.
class Crossing {
 public:
  explicit Crossing(bool skips = false) : there_(skips ? at::kMeta : at::kCPU) {}

  Tensor to_host(const Tensor& t) {
    if (!t.defined() || !t.is_cuda()) return t;
    auto& known = doubles_[t.unsafeGetTensorImpl()];
    if (known.second.defined()) return known.second;
    auto* memory = t.storage().unsafeGetStorageImpl();
    auto& host = storages_[memory];
    if (!host) {  // tensors that share memory on the card share it here
      c10::DataPtr same(skips() ? nullptr : memory->mutable_data(), nullptr, &c10::detail::deleteNothing, Device(there_));
      host = c10::Storage(c10::Storage::use_byte_size_t(), memory->nbytes(), std::move(same), c10::GetAllocator(there_), true);
      owners_.emplace(host.unsafeGetStorageImpl(), t);
    }
    const auto key = skips() ? DispatchKey::Meta : DispatchKey::CPU;
    auto made = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(host), DispatchKeySet(key), t.dtype());
    auto* impl = made.unsafeGetTensorImpl();
    impl->set_sizes_and_strides(t.sizes(), t.strides(), t.storage_offset());
    if (t.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
    known = {t, made};
    originals_.emplace(impl, t);
    return made;
  }

  // What the operation resized (`out=`) has its new size and, if it grew, new memory on the card.
  void settle() {
    for (auto& entry : doubles_) {
      const auto& [original, made] = entry.second;
      auto* impl = original.unsafeGetTensorImpl();
      const bool grown = skips() ? made.storage().nbytes() > original.storage().nbytes() : made.storage().data() != original.storage().data();
      if (grown)
        impl->set_storage_keep_dtype(moved(made.storage(), original.device()));
      if (original.sizes() != made.sizes() || original.strides() != made.strides() || original.storage_offset() != made.storage_offset())
        impl->set_sizes_and_strides(made.sizes(), made.strides(), made.storage_offset());
    }
  }

  Tensor to_card(const Tensor& t, Device device) {
    if (!t.defined()) return t;
    if (auto same = originals_.find(t.unsafeGetTensorImpl()); same != originals_.end()) return same->second;  // in-place
    Tensor made;
    if (auto base = owners_.find(t.storage().unsafeGetStorageImpl()); base != owners_.end()) {  // a view
      const auto& owner = base->second;
      made = at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(owner.storage()), owner.key_set(), t.dtype());
    } else {
      made = at::detail::make_tensor<c10::TensorImpl>(moved(t.storage(), device), DispatchKeySet(DispatchKey::CUDA), t.dtype());
    }
    made.unsafeGetTensorImpl()->set_sizes_and_strides(t.sizes(), t.strides(), t.storage_offset());
    return made;
  }

 private:
  bool skips() const { return there_ == at::kMeta; }

  c10::Storage moved(const c10::Storage& host, Device device) const {
    c10::DeviceGuard there(device);
    auto memory = card_allocator.allocate(host.nbytes());
    if (host.nbytes() && !skips()) std::memcpy(memory.get(), host.data(), host.nbytes());
    return c10::Storage(c10::Storage::use_byte_size_t(), host.nbytes(), std::move(memory), &card_allocator, true);
  }

  at::DeviceType there_;
  std::unordered_map<c10::TensorImpl*, std::pair<Tensor, Tensor>> doubles_;  // of the card → (itself, its double)
  std::unordered_map<c10::TensorImpl*, Tensor> originals_;                   // double → of the card
  std::unordered_map<c10::StorageImpl*, c10::Storage> storages_;             // of the card → of the host
  std::unordered_map<c10::StorageImpl*, Tensor> owners_;                     // of the host → a tensor of the card that it doubles
};

// The value with `f` applied to each tensor in it.
template <typename F>
IValue each_tensor(const IValue& value, F&& f) {
  if (value.isTensor()) return value.toTensor().defined() ? IValue(f(value.toTensor())) : value;
  if (value.isTensorList()) {
    auto tensors = value.toTensorVector();
    for (auto& t : tensors) t = f(t);
    return IValue(std::move(tensors));
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> tensors;
    for (const std::optional<Tensor> t : value.toOptionalTensorList()) tensors.push_back(t ? std::optional<Tensor>(f(*t)) : std::nullopt);
    return IValue(std::move(tensors));
  }
  return value;
}

[[noreturn]] void refuse(const std::string& operation, Device here, Device there) {
  TORCH_CHECK(false, "Expected all tensors to be on the same device, but found at least two devices, ", here, " and ", there,
              "! (in ", operation, ", on a simulated card)");
}

// As on a real card, these take their indices from the CPU if need be.
const std::set<std::string> INDICES_FROM_CPU = {"aten::index",         "aten::index_put",        "aten::index_put_",
                                                "aten::_unsafe_index", "aten::_unsafe_index_put", "aten::_index_put_impl_"};

bool is_large(const Tensor& t) { return t.defined() && static_cast<int64_t>(t.numel() * t.element_size()) >= skip_from; }

std::set<std::string> computed_after_all;  // operations on large tensors that the meta device does not know or whose result has
                                           // a shape that depends on numbers

// Numbers that nobody has computed are zero. So they are equal to each other and to no other number, and all of them are finite
// (which PyTorch asks as x == x and |x| != infinity). A large answer stays unwritten; that it is finite is said at `all`.
void answer_for_zeros(const std::string& name, const std::string& overload, const std::vector<IValue>& arguments, const Tensor& answer) {
  if (answer.scalar_type() != at::kBool || is_large(answer)) return;
  bool value;
  const bool with_number = overload == "Scalar" || overload == "Scalar_out";
  if (name == "aten::all") value = true;
  else if (name != "aten::eq" && name != "aten::ne") return;
  else value = (!with_number || arguments[1].toScalar().toDouble() == 0) == (name == "aten::eq");
  std::memset(answer.data_ptr(), value, answer.numel());
}

void run_on_host(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  const auto& schema = operation.schema();
  const size_t arguments = schema.arguments().size(), begin = stack->size() - arguments;
  const auto argument = [&](size_t i) -> IValue& { return (*stack)[begin + i]; };

  std::optional<Device> device, asked;
  std::optional<Device> stray;  // a CPU tensor with dimensions
  std::optional<at::Generator> generator;
  bool first_is_here = false, skips = false;
  for (size_t i = 0; i < arguments; ++i) {
    each_tensor(argument(i), [&](const Tensor& t) {
      if (!t.defined()) return t;
      if (t.is_cuda()) {
        if (device && *device != t.device()) refuse(schema.name(), *device, t.device());
        device = t.device();
        first_is_here |= i == 0;
        skips |= is_large(t);
      } else if (t.device().is_cpu() && t.dim() > 0) {
        stray = t.device();
      }
      return t;
    });
    if (argument(i).isDevice() && argument(i).toDevice().is_cuda()) asked = argument(i).toDevice();
    if (argument(i).isGenerator() && argument(i).toGenerator().defined()) generator = argument(i).toGenerator();
  }
  if (!device) device = asked && asked->has_index() ? *asked : Device(at::kCUDA, current_card);
  if (stray && !(first_is_here && INDICES_FROM_CPU.count(schema.name()))) refuse(schema.name(), *device, *stray);
  TORCH_CHECK(!generator || generator->device().is_cuda(), "Expected a 'cuda' device type for generator but found 'cpu'");

  Crossing crossing(skips);
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  const auto cross = [&] {
    for (size_t i = 0; i < arguments; ++i) {
      auto& value = argument(i);
      if (value.isDevice() && value.toDevice().is_cuda()) value = IValue(Device(skips ? at::kMeta : at::kCPU));
      else if (value.isGenerator()) value = IValue();
      else value = each_tensor(value, [&](const Tensor& t) {
        if (skips && t.defined() && t.device().is_cpu() && t.dim() > 0)  // indices
          return at::empty_strided(t.sizes(), t.strides(), t.options().device(at::kMeta));
        return crossing.to_host(t);
      });
    }
  };
  std::vector<IValue> kept;
  if (skips) {
    kept.assign(stack->begin() + begin, stack->end());
    try {
      cross();
      operation.callBoxed(stack);
    } catch (const std::exception&) {
      computed_after_all.insert(schema.name());
      stack->resize(begin);
      stack->insert(stack->end(), kept.begin(), kept.end());
      skips = false;
      crossing = Crossing();
    }
  }
  if (!skips) {
    cross();
    std::optional<Drawing> drawing;
    if (generator || operation.hasTag(at::Tag::nondeterministic_seeded)) drawing.emplace(generator ? *generator : default_generator(device->index()));
    operation.callBoxed(stack);
  }
  crossing.settle();
  for (size_t i = stack->size() - schema.returns().size(); i < stack->size(); ++i)
    (*stack)[i] = each_tensor((*stack)[i], [&](const Tensor& t) { return crossing.to_card(t, *device); });
  if (skips && stack->back().isTensor()) answer_for_zeros(schema.name(), schema.overload_name(), kept, stack->back().toTensor());
}

// ---- kernels that cannot be the CPU's -----------------------------------------------------------------------------------------

Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<Device> device,
             std::optional<bool>, std::optional<at::MemoryFormat> format) {
  c10::OptionalDeviceGuard there(device);
  return at::detail::empty_generic(size, &card_allocator, DispatchKeySet(DispatchKey::CUDA), c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                     std::optional<Device> device, std::optional<bool>) {
  c10::OptionalDeviceGuard there(device);
  return at::detail::empty_strided_generic(size, stride, &card_allocator, DispatchKeySet(DispatchKey::CUDA), c10::dtype_or_default(dtype));
}

// The one operation that is meant to join two devices. To the host, what is not huge is copied even where operations are skipped:
// memory of the host is not zero by itself.
Tensor& copy_(Tensor& self, const Tensor& source, bool) {
  constexpr int64_t FRESH = 64 << 20;  // from here on the host's memory, too, is new and untouched
  if (is_large(self) && (self.is_cuda() || self.numel() * self.element_size() >= FRESH)) return self;
  Crossing crossing;
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  crossing.to_host(self).copy_(crossing.to_host(source));
  return self;
}

void record_stream(Tensor&, c10::Stream) {}

// Softmax as a card computes it: in float32 whatever its input's format, and if asked, with a result in float32 (from float16 only,
// which PyTorch's own checks above this see to).
Tensor in_float32(const Tensor& t) { return t.scalar_type() == at::kDouble ? t : t.to(at::kFloat); }

template <Tensor (*function)(const Tensor&, int64_t, bool)>
Tensor& softmax_out(const Tensor& self, int64_t dim, bool, Tensor& out) {
  if (is_large(self) || is_large(out)) return out;
  Crossing crossing;
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  crossing.to_host(out).copy_(function(in_float32(crossing.to_host(self)), dim, false));
  return out;
}

template <Tensor (*function)(const Tensor&, const Tensor&, int64_t, at::ScalarType)>
Tensor& softmax_backward_out(const Tensor& grad, const Tensor& output, int64_t dim, at::ScalarType, Tensor& out) {
  if (grad.device() != output.device()) refuse("softmax backward", grad.device(), output.device());
  if (is_large(grad) || is_large(output) || is_large(out)) return out;
  Crossing crossing;
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  const auto g = in_float32(crossing.to_host(grad)), o = in_float32(crossing.to_host(output));
  crossing.to_host(out).copy_(function(g, o, dim, g.scalar_type()));
  return out;
}

// Matrix products of 16-bit numbers as tensor cores compute them: sums in float32, rounded once. (A CPU is slow at them besides.)
template <typename F>
Tensor& product(const char* name, std::initializer_list<const Tensor*> inputs, Tensor& out, F&& compute) {
  const auto& first = **inputs.begin();
  for (const auto* t : inputs) {
    if (t->device() != first.device()) refuse(name, first.device(), t->device());
    TORCH_CHECK(t->scalar_type() == first.scalar_type(), "expected mat1 and mat2 to have the same dtype, but got: ", first.scalar_type(),
                " != ", t->scalar_type());
  }
  TORCH_CHECK(first.scalar_type() != at::kBFloat16 || capability >= 80, name, " in bfloat16 on a card of compute capability ", capability / 10,
              ".", capability % 10, ": it has no such units and emulates them, several times slower. The simulation refuses");
  if (is_large(out) || std::any_of(inputs.begin(), inputs.end(), [](const Tensor* t) { return is_large(*t); })) return out;
  Crossing crossing;
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  std::vector<Tensor> wide;
  for (const auto* t : inputs) wide.push_back(at::isReducedFloatingType(t->scalar_type()) ? crossing.to_host(*t).to(at::kFloat) : crossing.to_host(*t));
  crossing.to_host(out).copy_(compute(wide));
  return out;
}

Tensor& mm_out(const Tensor& a, const Tensor& b, Tensor& out) {
  return product("mm", {&a, &b}, out, [](auto& in) { return at::mm(in[0], in[1]); });
}
Tensor& bmm_out(const Tensor& a, const Tensor& b, Tensor& out) {
  return product("bmm", {&a, &b}, out, [](auto& in) { return at::bmm(in[0], in[1]); });
}
Tensor& addmm_out(const Tensor& self, const Tensor& a, const Tensor& b, const at::Scalar& beta, const at::Scalar& alpha, Tensor& out) {
  return product("addmm", {&self, &a, &b}, out, [&](auto& in) { return at::addmm(in[0], in[1], in[2], beta, alpha); });
}
Tensor& baddbmm_out(const Tensor& self, const Tensor& a, const Tensor& b, const at::Scalar& beta, const at::Scalar& alpha, Tensor& out) {
  return product("baddbmm", {&self, &a, &b}, out, [&](auto& in) { return at::baddbmm(in[0], in[1], in[2], beta, alpha); });
}

// The same, with the sums handed over in float32 before they are rounded; a card alone has these. `self` may be in float32 then.
void check_result(const char* name, const Tensor& a, at::ScalarType wanted, const Tensor& out, at::IntArrayRef sizes) {
  const auto format = a.scalar_type();
  TORCH_CHECK(wanted == format || (wanted == at::kFloat && at::isReducedFloatingType(format)), name, ": out_dtype must be the inputs' dtype, or ",
              "float32 for inputs in 16 bits, and not ", wanted, " for ", format);
  TORCH_CHECK(out.scalar_type() == wanted && out.sizes() == sizes, name, ": out must have dtype ", wanted, " and size ", sizes);
  if (out.device() != a.device()) refuse(name, a.device(), out.device());
}

template <Tensor (*function)(const Tensor&, const Tensor&)>
Tensor& wide_product_out(const Tensor& a, const Tensor& b, at::ScalarType wanted, Tensor& out) {
  auto sizes = a.sizes().vec();
  sizes.back() = b.size(-1);
  check_result("a matrix product", a, wanted, out, sizes);
  return product("a matrix product", {&a, &b}, out, [](auto& in) { return function(in[0], in[1]); });
}
template <Tensor (*function)(const Tensor&, const Tensor&)>
Tensor wide_product(const Tensor& a, const Tensor& b, at::ScalarType wanted) {
  auto sizes = a.sizes().vec();
  sizes.back() = b.size(-1);
  auto out = at::empty(sizes, a.options().dtype(wanted));
  return wide_product_out<function>(a, b, wanted, out);
}

template <Tensor (*function)(const Tensor&, const Tensor&)>
Tensor& wide_sum_out(const Tensor& self, const Tensor& a, const Tensor& b, at::ScalarType wanted, const at::Scalar& beta,
                     const at::Scalar& alpha, Tensor& out) {
  auto sizes = a.sizes().vec();
  sizes.back() = b.size(-1);
  check_result("a matrix product", a, wanted, out, sizes);
  if (self.device() != a.device()) refuse("a matrix product", a.device(), self.device());
  TORCH_CHECK(self.scalar_type() == wanted || self.scalar_type() == a.scalar_type(), "a matrix product: self must have the dtype of the result or of ",
              "the inputs, and not ", self.scalar_type());
  if (is_large(self)) return out;
  return product("a matrix product", {&a, &b}, out, [&](auto& in) {
    Crossing crossing;
    const auto before = crossing.to_host(self).to(in[0].scalar_type());
    return before.mul(beta).add(function(in[0], in[1]), alpha);
  });
}
template <Tensor (*function)(const Tensor&, const Tensor&)>
Tensor wide_sum(const Tensor& self, const Tensor& a, const Tensor& b, at::ScalarType wanted, const at::Scalar& beta, const at::Scalar& alpha) {
  auto sizes = a.sizes().vec();
  sizes.back() = b.size(-1);
  auto out = at::empty(sizes, a.options().dtype(wanted));
  return wide_sum_out<function>(self, a, b, wanted, beta, alpha, out);
}

// ---- attention ------------------------------------------------------------------------------------------------------------------

// Which kernel `scaled_dot_product_attention` takes on this card, by the conditions in PyTorch's sdp_utils.cpp. Flash attention
// (capability 8.0, 16 bits, no mask) and the memory-efficient kernel (as many key heads as query heads) need memory that grows
// with the length, and stand here as one kernel; what neither takes is computed step by step, with all scores in memory.
int64_t choose_attention(const Tensor& q, const Tensor& k, const Tensor&, const std::optional<Tensor>& mask, double, bool,
                         std::optional<double>, bool) {
  constexpr int64_t STEP_BY_STEP = 0, EFFICIENT = 2;
  const bool masked = mask && mask->defined();
  const bool flash = capability >= 80 && at::isReducedFloatingType(q.scalar_type()) && !masked && q.size(-1) <= 256;
  const bool efficient = q.size(1) == k.size(1) && q.size(-1) % 8 == 0 && (q.scalar_type() != at::kBFloat16 || capability >= 80);
  return flash || efficient ? EFFICIENT : STEP_BY_STEP;
}

Tensor with_heads(const Tensor& t, int64_t heads) {
  const auto wide = t.to(at::kFloat);
  return t.size(1) == heads ? wide : wide.repeat_interleave(heads / t.size(1), 1);
}

Tensor summed_to(const Tensor& t, int64_t heads) {
  return t.size(1) == heads ? t : t.unflatten(1, {heads, t.size(1) / heads}).sum(2);
}

void check_attention(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& bias, double dropout) {
  for (const auto* t : {&k, &v, bias && bias->defined() ? &*bias : &q}) {
    if (t->device() != q.device()) refuse("scaled_dot_product_attention", q.device(), t->device());
    TORCH_CHECK(t->scalar_type() == q.scalar_type(), "Expected query, key, value and mask to have the same dtype, but got ", q.scalar_type(),
                " and ", t->scalar_type());
  }
  TORCH_CHECK(dropout == 0, "the simulated card has no dropout inside attention");
}

std::optional<Tensor> bias_on_host(Crossing& crossing, const std::optional<Tensor>& bias) {
  if (!bias || !bias->defined()) return std::nullopt;
  return crossing.to_host(*bias).to(at::kFloat).contiguous();
}

std::tuple<Tensor, Tensor, Tensor, Tensor> attention(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& bias,
                                                     bool, double dropout, bool causal, std::optional<double> scale) {
  check_attention(q, k, v, bias, dropout);
  const auto batch = q.size(0), heads = q.size(1), length = q.size(2);
  const auto out = at::empty({batch, length, heads, v.size(3)}, q.options()).transpose(1, 2);
  const auto log_sums = at::empty({batch, heads, length}, q.options().dtype(at::kFloat));
  const auto seed = at::empty({}, q.options().dtype(at::kLong)), offset = at::empty({}, q.options().dtype(at::kLong));
  if (is_large(q) || is_large(k) || is_large(v) || (bias && is_large(*bias))) return {out, log_sums, seed, offset};
  Crossing crossing;
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  const auto [result, sums] = at::_scaled_dot_product_flash_attention_for_cpu(
      crossing.to_host(q).to(at::kFloat), with_heads(crossing.to_host(k), heads), with_heads(crossing.to_host(v), heads), 0.0, causal,
      bias_on_host(crossing, bias), scale);
  crossing.to_host(out).copy_(result);
  crossing.to_host(log_sums).copy_(sums);
  return {out, log_sums, seed, offset};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> attention_backward(
    const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& bias, const Tensor& out, const Tensor& log_sums,
    const Tensor&, const Tensor&, double dropout, std::array<bool, 4> wanted, bool causal, std::optional<double> scale) {
  check_attention(q, k, v, bias, dropout);
  TORCH_CHECK(!wanted[3], "the simulated card has no gradient of an attention mask");
  const auto like = [](const Tensor& t) { return at::empty({t.size(0), t.size(2), t.size(1), t.size(3)}, t.options()).transpose(1, 2); };
  const auto dq = like(q), dk = like(k), dv = like(v);
  if (is_large(q) || is_large(k) || is_large(v) || is_large(bias)) return {dq, dk, dv, Tensor()};
  const auto heads = q.size(1);
  Crossing crossing;
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  const auto host = [&](const Tensor& t) { return crossing.to_host(t).to(at::kFloat); };
  const auto [gq, gk, gv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
      host(grad), host(q), with_heads(crossing.to_host(k), heads), with_heads(crossing.to_host(v), heads), host(out), host(log_sums), 0.0,
      causal, bias_on_host(crossing, bias), scale);
  crossing.to_host(dq).copy_(gq);
  crossing.to_host(dk).copy_(summed_to(gk, k.size(1)));
  crossing.to_host(dv).copy_(summed_to(gv, v.size(1)));
  return {dq, dk, dv, Tensor()};
}

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("copy_", &copy_);
  m.impl("record_stream", &record_stream);
  // views and storages, which are the same on every device
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", static_cast<Tensor (*)(const Tensor&, c10::IntArrayRef)>(&at::native::view));
  m.impl("_reshape_alias", static_cast<Tensor (*)(const Tensor&, c10::IntArrayRef, c10::IntArrayRef)>(&at::native::_reshape_alias));
  m.impl("set_.source_Storage", static_cast<Tensor& (*)(Tensor&, at::Storage)>(&at::native::set_));
  m.impl("set_.source_Storage_storage_offset", &at::native::set_storage_cpu_);
  m.impl("set_.source_Tensor", &at::native::set_tensor_);
  // a card has a kernel for these, and without one PyTorch puts them together from several operations, which take memory
  for (const auto* name : {"silu_backward", "mish_backward"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
  m.impl("_softmax.out", &softmax_out<at::_softmax>);
  m.impl("_log_softmax.out", &softmax_out<at::_log_softmax>);
  m.impl("_softmax_backward_data.out", &softmax_backward_out<at::_softmax_backward_data>);
  m.impl("_log_softmax_backward_data.out", &softmax_backward_out<at::_log_softmax_backward_data>);
  m.impl("mm.out", &mm_out);
  m.impl("bmm.out", &bmm_out);
  m.impl("addmm.out", &addmm_out);
  m.impl("baddbmm.out", &baddbmm_out);
  m.impl("mm.dtype", &wide_product<at::mm>);
  m.impl("mm.dtype_out", &wide_product_out<at::mm>);
  m.impl("bmm.dtype", &wide_product<at::bmm>);
  m.impl("bmm.dtype_out", &wide_product_out<at::bmm>);
  m.impl("addmm.dtype", &wide_sum<at::mm>);
  m.impl("addmm.dtype_out", &wide_sum_out<at::mm>);
  m.impl("baddbmm.dtype", &wide_sum<at::bmm>);
  m.impl("baddbmm.dtype_out", &wide_sum_out<at::bmm>);
  m.impl("_scaled_dot_product_efficient_attention", &attention);
  m.impl("_scaled_dot_product_efficient_attention_backward", &attention_backward);
}

}  // namespace

// ---- what PyTorch asks of a backend ---------------------------------------------------------------------------------------------

namespace at {  // the registries are here
struct CUDAHooks final : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex current_device() const override { return current_card; }
  DeviceIndex deviceCount() const override { return static_cast<DeviceIndex>(card_count); }
  int getNumGPUs() const override { return card_count; }
  void setCurrentDevice(DeviceIndex card) const override { exchange(card); }
  DeviceIndex getCurrentDevice() const override { return current_card; }
  DeviceIndex exchangeDevice(DeviceIndex card) const override { return exchange(card); }
  DeviceIndex maybeExchangeDevice(DeviceIndex card) const override { return exchange(card); }
  Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
  Device getDeviceFromPtr(void*) const override { return Device(kCUDA, current_card); }
  const Generator& getDefaultGenerator(DeviceIndex card = -1) const override { return default_generator(card); }
  Generator getNewGenerator(DeviceIndex card = -1) const override { return new_generator(card); }
  void deviceSynchronize(DeviceIndex) const override {}
};
REGISTER_CUDA_HOOKS(CUDAHooks)

namespace native {
REGISTER_CUDA_DISPATCH(_fused_sdp_choice_stub, &choose_attention)
}
}  // namespace at

// ---- for driver.py ----------------------------------------------------------------------------------------------------------------

extern "C" {
void card_insert(int cards, int its_capability, int64_t bytes, int64_t skip) {
  c10::SetAllocator(at::kCUDA, &card_allocator, 1);
  card_count = std::min(cards, MOST_CARDS);
  capability = its_capability;
  memory_limit = bytes;
  skip_from = skip;
}
// From now on the first card is shared with the other processes that name the same file.
int card_share(const char* file, const char* name, int64_t bytes, int64_t of_a_context) {
  try {
    ledger.join(file, name, bytes, of_a_context);
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}
// Bytes that nobody holds on a shared card; -1 if it is not shared.
int64_t card_available() { return ledger.available(); }
// Comma-separated; valid until the next call.
const char* card_computed_after_all() {
  static std::string names;
  names.clear();
  for (const auto& name : computed_after_all) names += (names.empty() ? "" : ",") + name;
  return names.c_str();
}
int card_current() { return current_card; }
int card_exchange(int card) { return card < card_count ? exchange(static_cast<DeviceIndex>(card)) : -1; }
int64_t card_allocated(int card) { return memory[card].allocated; }
int64_t card_held(int card) { return memory[card].held; }
int64_t card_peak(int card) { return memory[card].peak; }
void card_empty_cache(int card) {
  std::lock_guard<std::mutex> lock(memory_mutex);
  auto& mine = memory[card];
  if (card == 0) ledger.give_back(mine.held - mine.allocated);
  mine.held = mine.allocated;
}
int64_t card_allocations(int card) { return memory[card].allocations; }
void card_reset_peak(int card) {
  std::lock_guard<std::mutex> lock(memory_mutex);
  memory[card].peak = memory[card].allocated;
}
// An operation that another library defines, for the card too: on the host, as if it had no kernel at all.
int card_take_over(const char* space, const char* name) {
  static std::vector<std::unique_ptr<torch::Library>> libraries;
  try {
    libraries.push_back(std::make_unique<torch::Library>(torch::Library::IMPL, space, DispatchKey::CUDA, __FILE__, __LINE__));
    libraries.back()->impl(name, torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}
}
