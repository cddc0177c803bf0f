{{- /* Name of the chart in labels. */ -}}
{{- define "peerrelay-operator.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- /* Name of every object. It contains the name of the chart, so that a release with the name `view` does
       not conflict with the ClusterRole of that name. 52 characters leave room for suffixes. The name of a
       Service begins with a letter and has no dots. */ -}}
{{- define "peerrelay-operator.fullname" -}}
{{- $name := .Values.fullnameOverride -}}
{{- if not $name -}}
{{- $chart := .Values.nameOverride | default .Chart.Name -}}
{{- $name = contains $chart .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $chart) -}}
{{- end -}}
{{- $name = $name | replace "." "-" -}}
{{- if not (regexMatch "^[a-z]" $name) }}{{ $name = printf "r%s" $name }}{{ end -}}
{{- $name = $name | trunc 52 | trimSuffix "-" -}}
{{- if has $name (list "view" "edit" "admin" "cluster-admin") -}}
{{- fail (printf "fullnameOverride is %s, which is the name of a ClusterRole of Kubernetes: choose another name" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- define "peerrelay-operator.namespace" -}}
{{- .Values.namespaceOverride | default .Release.Namespace -}}
{{- end -}}

{{- define "peerrelay-operator.serviceAccount" -}}
{{- $default := (.Values.serviceAccount.create | default false) | ternary (include "peerrelay-operator.fullname" .) "default" -}}
{{- .Values.serviceAccount.name | default $default -}}
{{- end -}}

{{- /* Reference of an image. The input is {image, registry}: image as in values, and the registry for an
       image without one. */ -}}
{{- define "peerrelay-operator.reference" -}}
{{- $image := .image -}}
{{- $registry := .registry | default $image.registry -}}
{{- $name := $image.repository -}}
{{- if $registry }}{{ $name = printf "%s/%s" (trimSuffix "/" $registry) $name }}{{ end -}}
{{- if $image.digest }}{{ $name }}@{{ $image.digest }}{{ else }}{{ $name }}:{{ $image.tag | default .appVersion }}{{ end -}}
{{- end -}}

{{- define "peerrelay-operator.image" -}}
{{- if not .Values.image.repository -}}
{{- fail (include "peerrelay-operator.noImage" .) -}}
{{- end -}}
{{- $registry := (.Values.global | default dict).imageRegistry -}}
{{- include "peerrelay-operator.reference" (dict "image" .Values.image "registry" $registry "appVersion" .Chart.AppVersion) -}}
{{- end -}}

{{- define "peerrelay-operator.noImage" -}}
image.repository is empty, and no registry has this image yet. Build it in a clone of the repository (docs/install.md), load it, and say what it is called:

  cargo dev image --output out                               # localhost/peerrelay:{{ .Chart.AppVersion }}

  kind load image-archive out/image.tar                      # kind
  k3s ctr images import out/image.tar                        # k3s, on each node
  ctr --namespace k8s.io images import out/image.tar         # containerd, on each node
  helm ... --set image.repository=localhost/peerrelay

  docker load --input out/image.tar                          # a registry of your own
  docker tag localhost/peerrelay:{{ .Chart.AppVersion }} REGISTRY/peerrelay:{{ .Chart.AppVersion }}
  docker push REGISTRY/peerrelay:{{ .Chart.AppVersion }}
  helm ... --set image.repository=REGISTRY/peerrelay
{{- end -}}

{{- /* Pull secrets as a list for a pod. Those of global values come first. */ -}}
{{- define "peerrelay-operator.pullSecrets" -}}
{{- $names := list -}}
{{- range concat ((.Values.global | default dict).imagePullSecrets | default list) (.Values.imagePullSecrets | default list) -}}
{{- $names = append $names (kindIs "string" . | ternary . (kindIs "map" . | ternary (get (kindIs "map" . | ternary . dict) "name") "")) -}}
{{- end -}}
{{- range uniq $names }}
- name: {{ . }}
{{- end -}}
{{- end -}}

{{- define "peerrelay-operator.selector" -}}
app.kubernetes.io/name: {{ include "peerrelay-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- /* Labels of the chart itself. Values cannot replace them, because selectors depend on them. */ -}}
{{- define "peerrelay-operator.ownLabels" -}}
{{ include "peerrelay-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | quote }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: peerrelay
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- /* Labels of an object. The input is a list of the root and of further maps of labels. If several maps
       have the same key, the first one applies. */ -}}
{{- define "peerrelay-operator.labelsWith" -}}
{{- $root := first . -}}
{{- $labels := include "peerrelay-operator.ownLabels" $root | fromYaml -}}
{{- range rest . }}{{ $labels = merge $labels (. | default dict) }}{{ end -}}
{{- toYaml (merge $labels ($root.Values.commonLabels | default dict)) -}}
{{- end -}}

{{- define "peerrelay-operator.labels" -}}
{{- include "peerrelay-operator.labelsWith" (list .) -}}
{{- end -}}

{{- /* Field `annotations:` with those of all objects and further ones. Without annotations, it is omitted. */ -}}
{{- define "peerrelay-operator.annotations" -}}
{{- $root := first . -}}
{{- $all := dict -}}
{{- range rest . }}{{ $all = merge $all (. | default dict) }}{{ end -}}
{{- with merge $all ($root.Values.commonAnnotations | default dict) -}}
annotations: {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{- /* Name, namespace, labels and annotations. The input is a list of the root and a suffix of the name. */ -}}
{{- define "peerrelay-operator.metadata" -}}
{{- $root := first . -}}
name: {{ include "peerrelay-operator.fullname" $root }}{{ index . 1 }}
namespace: {{ include "peerrelay-operator.namespace" $root }}
labels: {{- include "peerrelay-operator.labels" $root | nindent 2 }}
{{- with include "peerrelay-operator.annotations" (list $root) }}
{{ . }}
{{- end }}
{{- end -}}

{{- /* The same for an object without a namespace. */ -}}
{{- define "peerrelay-operator.clusterMetadata" -}}
{{- $root := first . -}}
name: {{ include "peerrelay-operator.fullname" $root }}{{ index . 1 }}
labels: {{- include "peerrelay-operator.labels" $root | nindent 2 }}
{{- with include "peerrelay-operator.annotations" (list $root) }}
{{ . }}
{{- end }}
{{- end -}}

{{- define "peerrelay-operator.subjects" -}}
subjects:
  - kind: ServiceAccount
    name: {{ include "peerrelay-operator.serviceAccount" . }}
    namespace: {{ include "peerrelay-operator.namespace" . }}
{{- end -}}

{{- /* Pairs of a map as KEY=VALUE with a separator. The input is a list of the map and the separator. */ -}}
{{- define "peerrelay-operator.pairs" -}}
{{- $pairs := list -}}
{{- range $key, $value := first . }}{{ $pairs = append $pairs (printf "%s=%s" $key $value) }}{{ end -}}
{{- join (index . 1) $pairs -}}
{{- end -}}
