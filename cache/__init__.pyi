from .store import ActivationStore as ActivationStore
